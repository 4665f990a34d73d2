"""N_S and SLAT on AudioSet: train, and measure class by class."""
