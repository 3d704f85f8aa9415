"""Complete runs: run folder, training, evaluation."""
