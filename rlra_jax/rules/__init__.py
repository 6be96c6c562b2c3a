"""How error synapses learn."""
