"""Figures computed from matrices and labels."""
