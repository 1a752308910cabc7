"""Counters become demand and attainment; what was not counted is not known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.observers.counting import (
    Growth,
    attainment,
    demand,
    share_within,
    square_over_mean_square,
    together,
)
from planner.observers.exposition import Reading, grown, read
from services.domain.slo import Slo
from services.runtime.metrics import Meters
from services.runtime.metrics_page import NoMetrics, parse_page

INFINITY = float("inf")
SLO = Slo(ttft_s=0.5, tpot_s=0.03)


def served(meters: Meters, count: int, *, prompt: int = 1_000, cached: int = 250, output: int = 100) -> None:
    """Let a gateway's meters count some requests from accept to end."""
    for _ in range(count):
        meters.count("baton_requests_accepted_total")
        meters.observe("baton_prompt_length_tokens", prompt)
        meters.count("baton_prompt_tokens_total", prompt)
        meters.count("baton_cached_tokens_total", cached)
        meters.count("baton_output_tokens_total", output)
        meters.observe("baton_ttft_seconds", 0.3)
        meters.observe("baton_tpot_seconds", 0.02)


def page(meters: Meters, at_s: float) -> Reading:
    """Read a gateway's own page."""
    return read(parse_page(meters.render().decode()), at_s)


def test_a_gateway_that_missed_a_look_does_not_halve_the_others() -> None:
    """Two gateways take 2 and 3 requests a second; one was read after 10 s, the other after 20 s."""
    two, three = Meters(), Meters()
    before = page(two, 10.0), page(three, 0.0)
    served(two, 20)
    served(three, 60)
    growths = [grown(before[0], page(two, 20.0)), grown(before[1], page(three, 20.0))]
    both = together([growth for growth in growths if growth is not None])
    assert both is not None
    seen = demand(both)
    assert seen is not None
    assert seen.requests_per_s == pytest.approx(5.0)
    assert both.ttft[INFINITY] == pytest.approx(50.0)


def test_growth_of_a_gateways_own_page_is_its_demand() -> None:
    """What the gateway's meters counted between two readings comes out as requests and mean lengths."""
    meters = Meters()
    served(meters, 5)
    before = page(meters, 0.0)
    served(meters, 40)
    growth = grown(before, page(meters, 20.0))
    assert growth is not None
    seen = demand(growth)
    assert seen is not None
    assert (seen.requests_per_s, seen.prompt_tokens, seen.uncached_tokens, seen.output_tokens) == (
        2.0,
        1_000.0,
        750.0,
        100.0,
    )
    met = attainment(growth, SLO, prefill_pace=1.2, decode_pace=0.9)
    assert (met.request_count, met.ttft_frac, met.tpot_frac) == (40, 1.0, 1.0)
    assert (met.prefill_pace, met.decode_pace) == (1.2, 0.9)


def test_what_no_idle_worker_would_have_met_is_not_held_against_the_plan() -> None:
    """Of 100 prompts 10 take 0.8 s by themselves, and 20 more were late: 70 of 90 were in time."""
    meters = Meters()
    before = page(meters, 0.0)
    served(meters, 70)
    for alone_s, count in ((0.2, 90), (0.8, 10)):
        for _ in range(count):
            meters.observe("baton_ttft_alone_seconds", alone_s)
            meters.observe("baton_tpot_alone_seconds", 0.04)
    for _ in range(30):
        meters.observe("baton_ttft_seconds", 0.9)
    growth = grown(before, page(meters, 10.0))
    assert growth is not None
    both = together([growth, growth])
    assert both is not None
    for seen in (growth, both):
        met = attainment(seen, SLO, prefill_pace=1.0, decode_pace=1.0)
        assert met.ttft_possible_frac == pytest.approx(0.9)
        assert met.ttft_frac == pytest.approx(70 / 90)
        assert met.tpot_possible_frac < 0.5
        assert met.tpot_frac == 1.0


def test_a_process_that_began_again_tells_nothing_at_first() -> None:
    """Counters that went back are no negative demand."""
    old, new = Meters(), Meters()
    served(old, 9)
    served(new, 2)
    assert grown(page(old, 0.0), page(new, 10.0)) is None


def test_no_requests_are_known_but_unfinished_ones_are_not() -> None:
    """Silence is a demand of nothing; requests none of which has ended have no known length."""
    idle = Growth(
        window_s=10.0,
        accepted=0.0,
        ended=0.0,
        prompt_tokens=0.0,
        cached_tokens=0.0,
        output_tokens=0.0,
        prompts={},
        ttft={},
        tpot={},
    )
    seen = demand(idle)
    assert seen is not None
    assert seen.requests_per_s == 0.0
    begun = Growth(
        window_s=10.0,
        accepted=7.0,
        ended=0.0,
        prompt_tokens=0.0,
        cached_tokens=0.0,
        output_tokens=0.0,
        prompts={},
        ttft={},
        tpot={},
    )
    assert demand(begun) is None
    assert together([]) is None
    both = together([idle, begun])
    assert both is not None
    assert both.accepted == 7.0


@pytest.mark.parametrize(("bound", "share"), [(0.5, 0.5), (1.0, 0.8), (0.75, 0.65), (2.0, 0.8), (5.0, 0.8)])
def test_a_share_is_read_between_the_bounds_of_a_histogram(bound: float, share: float) -> None:
    """By straight lines; what lies beyond the last bound is late."""
    assert share_within({0.5: 50.0, 1.0: 80.0, INFINITY: 100.0}, bound) == pytest.approx(share)


@given(st.lists(st.floats(0.0, 50.0), min_size=3, max_size=3))
def test_the_mean_square_is_never_below_the_squared_mean(inside: list[float]) -> None:
    """Whatever the histogram, its variation is a variation."""
    first, second, third = inside
    assert (
        square_over_mean_square({10.0: first, 20.0: first + second, INFINITY: first + second + third}) >= 1.0
    )


def test_labels_are_added_up_and_a_page_of_something_else_is_refused() -> None:
    """What is no metric is an error, not a gateway without requests."""
    reading = read(parse_page('x{a="b"} 2\nx{a="c"} 3\n'), 1.0)
    assert reading.values == {"x": 5.0}
    for text in ('{"kind": "Deployment"}', "<html><body>not found</body></html>"):
        with pytest.raises(NoMetrics):
            parse_page(text)
