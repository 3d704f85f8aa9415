"""Finished models from anywhere: run folders, published checkpoints, open_clip and timm tags, the Hub."""
