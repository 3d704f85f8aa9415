"""Learnable parts that several models share."""
