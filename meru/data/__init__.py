"""Data sets: folders to records to batches."""
