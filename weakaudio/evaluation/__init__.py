"""Metrics: tagging, events, and PSDS."""
