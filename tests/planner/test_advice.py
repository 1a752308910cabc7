"""Advice: said where it applies, silent where it does not, and never part of a decision."""

from dataclasses import replace

import pytest

from planner.advice import Lately, advise
from planner.observation import Attainment
from planner.planner import Planner
from tests.planner.situations import RELAXED, counts, demand, led, pools, settings

CACHED = replace(demand(40.0), uncached_tokens=300.0)
FINE = Attainment(request_count=1_000)


@pytest.mark.parametrize(
    ("work", "cached", "ttft_frac", "requests", "words"),
    [
        pytest.param(3.0, True, 1.0, 1_000, (), id="nothing to say"),
        pytest.param(1.0, True, 1.0, 1_000, ("pay by the request",), id="idle"),
        pytest.param(3.0, False, 1.0, 1_000, ("prompts' structure",), id="nothing cached"),
        pytest.param(3.0, True, 0.9, 1_000, ("replicas, not",), id="a late tail"),
        pytest.param(3.0, True, 0.2, 1_000, (), id="late altogether"),
        pytest.param(3.0, True, 0.9, 10, (), id="too few to tell"),
        pytest.param(1.0, False, 0.9, 1_000, ("pay by", "structure", "replicas"), id="all at once"),
    ],
)
def test_each_rule_speaks_where_it_applies(
    work: float, cached: bool, ttft_frac: float, requests: int, words: tuple[str, ...]
) -> None:
    """One sentence per rule, in a fixed order."""
    said = advise(
        demand=CACHED if cached else demand(40.0),
        attainment=replace(FINE, ttft_frac=ttft_frac, request_count=requests),
        slo=RELAXED,
        attainment_frac=0.99,
        work_workers=work,
        workers=4,
    )
    assert len(said) == len(words)
    assert all(word in sentence for word, sentence in zip(words, said, strict=True))


@pytest.mark.parametrize(
    ("possible", "words"),
    [
        pytest.param({"ttft_possible_frac": 0.97}, "3.0% of the prompts take longer than 2 s", id="ttft"),
        pytest.param({"tpot_possible_frac": 0.0}, "100.0% of the outputs take longer than 25 ms", id="tpot"),
        pytest.param({"ttft_possible_frac": 0.995}, "", id="few"),
        pytest.param({"ttft_possible_frac": 0.5, "request_count": 20}, "", id="too few to tell"),
    ],
)
def test_what_no_number_of_workers_meets_is_said(possible: dict[str, float], words: str) -> None:
    """As soon as it is more than may be late altogether."""
    said = advise(
        demand=CACHED,
        attainment=replace(FINE, **possible),  # type: ignore[arg-type]  # each case gives its type
        slo=RELAXED,
        attainment_frac=0.99,
        work_workers=3.0,
        workers=4,
    )
    assert len(said) == bool(words)
    assert not words or (words in said[0] and "no number of workers" in said[0])


def test_few_requests_a_look_tell_after_enough_looks() -> None:
    """Shares of thirty requests say nothing; those of four such looks do, and what was longest ago fades."""
    lately, seen = Lately(), Attainment(request_count=30, ttft_possible_frac=0.7)
    known = [lately.fold(seen) for _ in range(4)]
    assert [one.request_count for one in known] == [30, 60, 90, 120]
    assert known[-1].ttft_possible_frac == pytest.approx(0.7)
    for _ in range(40):
        last = lately.fold(replace(seen, ttft_possible_frac=1.0))
    assert last.ttft_possible_frac > 0.99
    assert lately.fold(Attainment()).request_count == 100


def test_advice_stands_beside_a_decision() -> None:
    """A fleet far too large is told so, while its size is decided as ever."""
    decision = led(Planner(settings()), [5.0], pools(6, 6))
    assert any("pay by the request" in sentence for sentence in decision.advice)
    assert sum(counts(decision).values()) == 12, "on little knowledge nothing is given back"
