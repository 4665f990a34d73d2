"""How fast networks are on the device at hand: measured, looked up and foretold."""
