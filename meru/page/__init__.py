"""The search page: an index and its model in a browser, `scripts/serve.py`."""
