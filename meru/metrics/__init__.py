"""Matrices and labels to numbers."""
