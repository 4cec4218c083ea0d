"""Which replica gets a request: choices as pure functions, and Ray Serve's routers made of them."""
