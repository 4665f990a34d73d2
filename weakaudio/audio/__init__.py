"""A recording becomes a log-mel with a time axis."""
