"""A device chooses the network."""
