"""Tables of events and embeddings on disk."""
