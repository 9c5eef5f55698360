"""After the run: the trained model, its weights on disk, and predictions with it."""
