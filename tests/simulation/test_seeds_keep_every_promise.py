"""Five hundred whole clusters under faults, and every one keeps every promise."""

from services.simulation.campaign import run_seeds

SEEDS = range(500)


def test_every_promise_is_kept_in_five_hundred_runs() -> None:
    """No seed breaks an invariant; a seed that does is replayed with `baton simulate --seed N`."""
    broken = [verdict.line() for verdict in run_seeds(SEEDS) if verdict.violations]
    assert broken == []
