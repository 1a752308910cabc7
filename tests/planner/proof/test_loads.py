"""Every format of trace becomes a load that holds the same requests; what is drawn repeats."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from planner.proof.load import SPREAD_WEIGHTS, drawn, even_spread, led_in, measured_spread
from planner.proof.made_loads import flash_crowd, sine, step_up
from planner.proof.trace_loads import request_load, window_load
from planner.proof.trace_text import TracedRequests, TracedWindows, parse_trace
from services.domain.errors import ConfigurationInvalid
from tests.planner.proof.even_loads import load_of

MOONCAKE = """{"timestamp": 0, "input_length": 1500, "output_length": 5, "hash_ids": [1, 2, 3]}
{"timestamp": 2500, "input_length": 1600, "output_length": 9, "hash_ids": [1, 2, 3, 4]}
{"timestamp": 1000, "input_length": 700, "output_length": 0, "hash_ids": [7, 8]}
"""
AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:18:04.9799600,110,27
"""
AZURE_2024 = "t_s,rpm_mid_rescaled,rpm_low,rpm_high\n100.0,600,500,700\n500.0,1200,900,1300\n"
SERVEGEN = "t_s,rps,mean_isl,mean_osl\n0.0,10,250,300\n600.0,20,500,100\n1200.0,10,250,300\n"


def requests(text: str) -> TracedRequests:
    """Read a trace of single requests."""
    trace = parse_trace(text)
    assert isinstance(trace, TracedRequests)
    return trace


def windows(text: str) -> TracedWindows:
    """Read a trace of windows."""
    trace = parse_trace(text)
    assert isinstance(trace, TracedWindows)
    return trace


def test_mooncake_rows_are_put_in_order_and_their_prefixes_hit() -> None:
    """What an earlier prompt of the same prefix left is not computed again; an output has a token."""
    trace = requests(MOONCAKE)
    assert trace.at_s.tolist() == [0.0, 1.0, 2.5]
    assert trace.uncached_tokens.tolist() == [1500, 700, 1600 - 3 * 512]
    assert trace.output_tokens.tolist() == [5, 1, 9]


def test_azure_rows_keep_their_moments() -> None:
    """Fractions of a second count, to the microsecond."""
    trace = requests(AZURE_2023)
    assert trace.at_s.tolist() == pytest.approx([0.0, 0.052, 61.0], abs=1e-6)
    assert trace.prompt_tokens.tolist() == [4808, 3180, 110]


@pytest.mark.parametrize(("text", "low_per_s", "high_per_s"), [(AZURE_2024, 10, 20), (SERVEGEN, 10, 20)])
def test_windows_are_joined_and_drawn(text: str, low_per_s: float, high_per_s: float) -> None:
    """Rates run from one window's to the next one's, and the draw repeats."""
    trace = windows(text)
    load = window_load("w", trace, speed=1.0, step_s=10.0, seed=3)
    again = window_load("w", trace, speed=1.0, step_s=10.0, seed=3)
    assert (load.arrivals == again.arrivals).all()
    assert low_per_s * 10 * 0.7 < load.arrivals[:3].mean() < (low_per_s + 2) * 10 * 1.3
    assert load.arrivals.max() < high_per_s * 10 * 1.6
    tenfold = window_load("w", trace, speed=1.0, step_s=10.0, seed=3, factor=10)
    assert tenfold.arrivals.sum() == pytest.approx(10 * load.arrivals.sum(), rel=0.1)


@given(
    gaps_s=st.lists(st.floats(0.01, 20), min_size=2, max_size=60),
    speed=st.sampled_from([1.0, 8.0, 40.0]),
    copies=st.sampled_from([1, 3]),
)
@example(gaps_s=[1.0, 6.15], speed=1.0, copies=1)
def test_no_request_is_lost_or_made_up(gaps_s: list[float], speed: float, copies: int) -> None:
    """Requests and tokens of a load are those of its trace, however fast, so many times as it is copied."""
    count = len(gaps_s)
    tokens = np.linspace(1.0, count, count)
    trace = TracedRequests(
        at_s=np.cumsum(gaps_s) - gaps_s[0], prompt_tokens=tokens, uncached_tokens=tokens, output_tokens=tokens
    )
    load = request_load("t", trace, speed=speed, step_s=1.0, copies=copies)
    assert load.arrivals.sum() == count * copies
    assert load.arrivals @ load.uncached_tokens == pytest.approx(tokens.sum() * copies)
    assert load.duration_s <= trace.at_s[-1] / speed + 2


@given(values=st.lists(st.floats(1, 1e5), min_size=1, max_size=200))
def test_a_spread_has_mean_one(values: list[float]) -> None:
    """The parts of a distribution, by their shares, make its mean; they do not fall."""
    for spread in (measured_spread(np.array(values)), even_spread(0.5)):
        assert spread @ SPREAD_WEIGHTS == pytest.approx(1.0)
        assert (np.diff(spread) >= -1e-6).all()


def test_a_draw_keeps_the_means_and_clumps_when_told() -> None:
    """Counts scatter about their means, by the dispersion."""
    even = load_of([20.0] * 20_000, step_s=1.0)
    clumped = drawn(replace(even, dispersion=5.0), 1)
    plain = drawn(even, 1)
    for load, dispersion in ((plain, 1.0), (clumped, 5.0)):
        assert load.arrivals.mean() == pytest.approx(20.0, rel=0.02)
        assert load.arrivals.var() / load.arrivals.mean() == pytest.approx(dispersion, rel=0.1)


def test_made_loads_go_where_they_say() -> None:
    """A sine swings, a step steps, a crowd comes and ebbs; bursts are marked."""
    wave = sine(low_per_s=5, high_per_s=45, period_s=100, periods=3, step_s=1.0, seed=1)
    assert wave.arrivals[40:60].mean() > 40
    assert wave.arrivals[95:105].mean() < 10
    up = step_up(low_per_s=10, high_per_s=30, at_s=50, end_s=100, step_s=1.0, seed=1)
    assert (up.arrivals[:50].mean(), up.arrivals[50:].mean()) == pytest.approx((10, 30), rel=0.2)
    assert up.burst_s == 50
    crowd = flash_crowd(
        rate_per_s=20, factor=5, at_s=100, crowd_s=100, rise_s=10, end_s=600, step_s=1.0, seed=1
    )
    assert crowd.arrivals[120:190].mean() == pytest.approx(100, rel=0.1)
    assert crowd.arrivals[-50:].mean() == pytest.approx(20, rel=0.2)
    led = led_in(crowd, lead_s=60, like_s=60, seed=2)
    assert led.counted == slice(60, 660)
    assert led.burst_s == 160
    assert led.arrivals[:60].mean() == pytest.approx(20, rel=0.2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n1,2\n",
        "t_s,rps\n",
        "t_s,rps\n1,-2\n",
        '{"timestamp": 0}\n',
        "TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,1\n",
    ],
)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    """No trace, no columns, a negative rate, a row without lengths, no moment."""
    with pytest.raises(ConfigurationInvalid):
        parse_trace(text)
