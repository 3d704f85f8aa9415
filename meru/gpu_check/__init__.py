"""One run of everything that needs a GPU: its tests, benchmarks and a short training, each in a time box."""
