"""Parameter servers: each holds some of a model's parameters, takes gradients and gives parameters."""
