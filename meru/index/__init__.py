"""Indexes of images: their points in a model's space, kept in a folder, and search among them."""
