"""After the run: its weights on disk, and predictions with them."""
