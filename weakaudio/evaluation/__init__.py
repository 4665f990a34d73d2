"""Metrics: clip-level tags, segment- and event-based F1, PSDS; a model measured on a corpus."""
