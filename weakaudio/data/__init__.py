"""From clips and labels to training batches."""
