"""Synthetic birds in the layout of CUB-200-2011."""
