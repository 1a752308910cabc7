"""A worker: one engine with one phase or both, reachable by link, visible to the fleet."""
