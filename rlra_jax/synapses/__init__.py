"""Error synapses: how an error travels back over an edge."""
