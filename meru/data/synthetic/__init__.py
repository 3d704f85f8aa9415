"""Synthetic data sets, which are drawn at their first use."""
