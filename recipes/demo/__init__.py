"""The complete workflow on sounds whose truth is known: `make demo`."""
