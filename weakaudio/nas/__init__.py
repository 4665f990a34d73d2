"""The device chooses its network: by a law of depth and width, and by evolution under a bound on latency."""
