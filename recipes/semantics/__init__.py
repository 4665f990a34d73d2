"""What the classes of ESC-50 mean to a model."""
