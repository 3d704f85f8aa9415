"""Towers: images and captions to Euclidean features. No geometry is known here."""
