"""Serving by Ray Serve: the replica that holds the model answers its endpoint's HTTP requests itself."""
