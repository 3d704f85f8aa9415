"""Synthetic pedestrians in the layout of CUHK-PEDES."""
