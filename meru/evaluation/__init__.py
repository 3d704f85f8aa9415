"""Metrics over plain matrices; no model is known here."""
