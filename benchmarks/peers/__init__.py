"""One file a peer; adding one touches nothing else."""
