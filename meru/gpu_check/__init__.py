"""Run everything that needs a GPU: tests, benchmarks and a short training, each with a time limit."""
