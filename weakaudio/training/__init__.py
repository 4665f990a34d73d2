"""Batches become a trained network: `fit.train` is `weakaudio train`."""
