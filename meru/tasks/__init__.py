"""What differs between the kinds of training."""
