"""The recursion of rec-LRA: from errors to targets, level by level, and to updates."""
