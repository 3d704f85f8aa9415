"""Losses: pure functions from points to scalars, one idea per file."""
