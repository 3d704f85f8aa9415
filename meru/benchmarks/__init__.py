"""Measures speed, memory and accuracy; tables for people."""
