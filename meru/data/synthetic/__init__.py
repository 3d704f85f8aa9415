"""Synthetic data sets, generated at first use."""
