"""The whole cluster in deterministic simulation."""
