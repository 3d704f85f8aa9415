"""The training loop and its components, independent of the model."""
