"""Metrics as text, tables and plots."""
