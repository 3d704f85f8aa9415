"""Synthetic data sets, drawn on the spot."""
