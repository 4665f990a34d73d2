"""Embeddings become a classifier of ESC-50, over its five folds."""
