"""How many replicas an endpoint should have: policies as pure functions, and their adapter to Ray Serve."""
