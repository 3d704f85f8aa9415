"""Metrics computed from matrices and labels, independent of any model."""
