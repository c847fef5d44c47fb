"""People and their preferences: simulated labelers."""
