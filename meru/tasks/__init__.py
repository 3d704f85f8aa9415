"""The kinds of training: image–text runs and discovery runs."""
