"""Evaluation suites: a model and a loader in, metrics out."""
