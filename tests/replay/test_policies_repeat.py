"""A policy is a function of what it saw: the same trace gives the same run, on one pool and on two."""

from dataclasses import replace

import pytest

from services.replay.policies import POLICIES
from services.replay.run import ReplaySettings, replay
from services.replay.workloads import make_workload

TRACE = make_workload("shared-prefix", seed=3, count=150)


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("prefill_workers", [None, 2])
def test_the_same_trace_gives_the_same_run(name: str, prefill_workers: int | None) -> None:
    """To the last bit; and every request ends, or is refused and told why."""
    settings = ReplaySettings(
        policy=name, workers=4, speedup=4.0, timing="dynamo-mocker", prefill_workers=prefill_workers
    )
    first, second = replay(TRACE, settings)[0], replay(TRACE, settings)[0]
    assert replace(first, took_s=0.0) == replace(second, took_s=0.0)
    assert first.completed_count + first.refused_count == len(TRACE.requests)
    assert sum(first.refused.values()) == first.refused_count
    assert first.refused_count == 0 or name == "mooncake"
