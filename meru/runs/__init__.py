"""Whole runs: their folder, training, evaluation."""
