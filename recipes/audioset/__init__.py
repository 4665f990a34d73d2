"""Train N_S and SLAT on AudioSet, and evaluate them class by class."""
