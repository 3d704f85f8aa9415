"""Parts of models that hold parameters."""
