"""Losses: pure functions, points in, scalar out; one idea a file."""
