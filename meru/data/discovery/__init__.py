"""Category discovery: which images are labelled, and the batches of a run."""
