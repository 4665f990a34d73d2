"""Embeddings become classifiers of other people's classes: frozen, adapted and transductive."""
