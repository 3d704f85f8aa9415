"""Towers that map images and captions to Euclidean features, independent of any geometry."""
