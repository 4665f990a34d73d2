"""Latency on a device, and the search for a network that suits it (arXiv 2511.18890)."""
