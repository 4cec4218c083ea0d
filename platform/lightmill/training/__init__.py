"""Training by Ray Train: placement checked first, sealed checkpoints, the best one registered."""
