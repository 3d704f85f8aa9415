"""Data sets: from folders to records to batches."""
