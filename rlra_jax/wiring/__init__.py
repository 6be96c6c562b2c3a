"""Error pathways: which region hears from which, and at which recursion level."""
