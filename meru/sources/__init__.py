"""Models from run folders, published checkpoints, open_clip, timm and the Hub."""
