"""The bus: one contract suite for memory and NATS, and what is special to each."""
