"""Hardware-aware search: latency of components, a scaling law, and evolution under a latency budget."""
