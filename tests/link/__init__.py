"""Links: one contract suite for memory and gRPC, and what only one of them has."""
