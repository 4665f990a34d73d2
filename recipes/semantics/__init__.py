"""The meaning of the classes of ESC-50 to a model."""
