"""Image–text models and category discovery in hyperbolic space."""

__version__ = "0.1.0"
