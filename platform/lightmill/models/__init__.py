"""Models: architectures by name, and everything that turns a record into something that predicts."""
