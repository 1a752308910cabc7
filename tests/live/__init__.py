"""Whole clusters of processes, asked from outside: real vLLM, NIXL, NATS and gRPC."""
