"""Recordings become embeddings."""
