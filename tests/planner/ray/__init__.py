"""The scale target on Ray Serve, against a server that speaks its REST API."""
