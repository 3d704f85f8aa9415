"""Images and captions in tar files, as img2dataset writes them, read as a stream in training."""
