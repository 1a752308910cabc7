"""Stabilising: what keeps a plan from following every breath of the load."""
