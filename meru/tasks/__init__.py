"""Kinds of training: what an image–text run and a discovery run do differently."""
