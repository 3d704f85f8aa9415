"""A user's own images: tables, folders with captions, class folders, Karpathy's lists and described file names."""
