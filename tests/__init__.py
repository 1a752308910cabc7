"""The tests, grouped by behaviour; benchmarks live in `tests/bench` and are not collected."""
