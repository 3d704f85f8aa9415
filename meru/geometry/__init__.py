"""Hyperbolic geometry: pure functions."""
