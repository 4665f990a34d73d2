"""Models by name or path: the registry, downloads, model files, and converters of published weights."""
