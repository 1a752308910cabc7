"""The benchmark's verdicts are about the right references."""

from dataclasses import replace

import pytest

from tests.bench.placement_rows import Outcome, best_split, heading, judge, line

POOL = Outcome(
    policy="dynamo-kv",
    ttft_mean_ms=100,
    ttft_p95_ms=400,
    itl_mean_ms=10,
    itl_p99_ms=150,
    goodput_count=990,
    goodput_p99_count=300,
    hit_frac=0.2,
    requests=1000,
)
SPLIT = replace(POOL, policy="dynamo-kv:4", ttft_p95_ms=800, itl_p99_ms=12, goodput_p99_count=980)
POOR = replace(POOL, policy="dynamo-kv:6", ttft_p95_ms=500, itl_p99_ms=40, goodput_p99_count=100)
OURS = replace(POOL, policy="baton", ttft_p95_ms=500, itl_p99_ms=12, goodput_p99_count=985)


def test_the_best_split_meets_most_targets() -> None:
    """Not the one with the shortest TTFT, and never one pool."""
    assert best_split([POOL, POOR, SPLIT]) == SPLIT
    assert best_split([POOL]) is None


def test_the_better_one_is_beaten_while_the_least_of_each_is_not() -> None:
    """Shorter TTFT than the split at its ITL, and still longer than one pool's."""
    verdict = judge(OURS, [POOL, POOR, SPLIT])
    assert verdict.better == SPLIT
    assert verdict.holds
    assert not verdict.holds_everywhere
    assert verdict.ttft_p95_frac == pytest.approx(-0.375)
    assert verdict.ttft_p95_least_frac == pytest.approx(0.25)


@pytest.mark.parametrize(("ttft_p95_ms", "holds"), [(411.0, True), (413.0, False)])
def test_three_percent_is_the_line(ttft_p95_ms: float, holds: bool) -> None:
    """Of the least of each, on both measures."""
    assert judge(replace(OURS, ttft_p95_ms=ttft_p95_ms), [POOL, SPLIT]).holds_everywhere is holds


def test_without_a_split_one_pool_is_the_reference() -> None:
    """And its column says that there was none."""
    assert judge(OURS, [POOL]).better == POOL
    assert line("load", OURS, [POOL]).count("|") == heading().splitlines()[0].count("|")
    assert "| – |" in line("load", OURS, [POOL])
