"""Engines: the contract that every engine passes, and what is particular to each."""
