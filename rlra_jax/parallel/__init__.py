"""Parallel recursion: meshes, and updates that spread levels or stages over devices or stream through blocks."""
