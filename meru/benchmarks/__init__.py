"""Benchmarks of speed, memory and accuracy, with Markdown tables."""
