"""Embeddings become somebody's classifier."""
