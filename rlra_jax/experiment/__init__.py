"""Training on data: everything that reads files, writes results or knows about configs."""
