"""Readers of data sets as they are distributed, one file for each family of layouts."""
