"""The vocabulary of Baton: values every room shares, with no I/O, no clock and no randomness.

Comes in: nothing (standard library only). Goes out: frozen values and the error tree.
Invariant: a value never changes after it was made; only durations, never clock readings, are fields.
Not here: wire formats (`services.wire`), settings and clocks (`services.runtime`).
"""
