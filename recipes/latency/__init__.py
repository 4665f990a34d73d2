"""From measuring the device to the network that suits it (arXiv 2511.18890)."""
