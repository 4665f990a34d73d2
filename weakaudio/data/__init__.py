"""Clips and their labels become batches."""
