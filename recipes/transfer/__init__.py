"""Transfer of embeddings to other classes: frozen, fine-tuned and transductive."""
