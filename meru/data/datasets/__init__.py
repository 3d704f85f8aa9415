"""Readers for data sets in their published layouts, one file for each family of layouts."""
