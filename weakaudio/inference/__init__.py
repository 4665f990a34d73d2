"""Recordings become embeddings and events."""

DEFAULT_MODEL = "weakaudio-base"  # what detects, unless another is asked for
