"""Margins under overload: as many miss as may, and where predictions come true nothing is kept."""

import random
from itertools import repeat

from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.slo import WHOLE, Margins, Slo
from services.router.learning.misses import MARGIN_MIN_FRAC, MODELS_MAX, Misses, Outcome

TARGETS = Slo(ttft_s=2.0, tpot_s=0.1)
TIMES = st.none() | st.floats(min_value=0, max_value=1e6)
FRACS = st.floats(min_value=MARGIN_MIN_FRAC, max_value=1)
OUTCOMES = st.builds(
    Outcome,
    margins=st.builds(Margins, ttft_frac=FRACS, tpot_frac=FRACS),
    predicted_ttft_s=st.floats(min_value=0, max_value=4),
    predicted_tpot_s=st.floats(min_value=0, max_value=0.2),
    ttft_s=TIMES,
    tpot_s=TIMES,
)


def serve(misses: Misses, ratio: float, model: str = "m") -> bool:
    """Let a request in at its bounds, with times off by a ratio; returns whether TTFT was missed."""
    margins = misses.margins(model)
    ttft_s, tpot_s = TARGETS.ttft_s * margins.ttft_frac, TARGETS.tpot_s * margins.tpot_frac
    misses.fold(
        model,
        Outcome(
            margins=margins,
            predicted_ttft_s=ttft_s,
            predicted_tpot_s=tpot_s,
            ttft_s=ttft_s * ratio,
            tpot_s=tpot_s * ratio,
        ),
    )
    return ttft_s * ratio > TARGETS.ttft_s


@given(st.lists(OUTCOMES, max_size=200), st.floats(min_value=0.01, max_value=1))
def test_margins_stay_in_their_bounds(outcomes: list[Outcome], miss_frac: float) -> None:
    """Whatever comes, some of the target is given away and never more than all of it."""
    misses = Misses(TARGETS, miss_frac)
    for outcome in outcomes:
        misses.fold("m", outcome)
        margins = misses.margins("m")
        assert MARGIN_MIN_FRAC <= margins.ttft_frac <= 1
        assert MARGIN_MIN_FRAC <= margins.tpot_frac <= 1


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    scatter=st.floats(min_value=0.1, max_value=0.5),
    centre=st.floats(min_value=0.9, max_value=1.4),
    miss_frac=st.sampled_from((0.1, 0.2, 0.4)),
)
def test_as_many_miss_as_may(seed: int, scatter: float, centre: float, miss_frac: float) -> None:
    """Whatever the distribution, half of the allowed misses fall on each target, or nothing is kept."""
    rng, misses = random.Random(seed), Misses(TARGETS, miss_frac)
    for _ in repeat(None, 300):
        serve(misses, centre * rng.lognormvariate(0, scatter))
    late = sum(serve(misses, centre * rng.lognormvariate(0, scatter)) for _ in repeat(None, 1000))
    assert late / 1000 < miss_frac / 2 + 0.04
    assert late / 1000 > miss_frac / 2 - 0.04 or misses.margins("m").ttft_frac > 0.8


def test_many_under_way_do_not_push_too_far() -> None:
    """All that were let in before the first one ended come twice as late: the bound halves, no more."""
    misses = Misses(TARGETS, 0.1)
    for _ in repeat(None, 1000):
        outcome = Outcome(margins=WHOLE, predicted_ttft_s=1.9, predicted_tpot_s=0.09, ttft_s=4.0, tpot_s=0.2)
        misses.fold("m", outcome)
    assert 0.48 < misses.margins("m").ttft_frac <= 0.51
    assert 0.48 < misses.margins("m").tpot_frac <= 0.51


def test_exact_predictions_win_the_whole_target_back() -> None:
    """After a bad time the margin goes when predictions come true."""
    misses = Misses(TARGETS, 0.1)
    for _ in repeat(None, 200):
        serve(misses, 3.0)
    assert misses.margins("m").ttft_frac < 0.4
    for _ in repeat(None, 2000):
        serve(misses, 1.0)
    assert misses.margins("m").ttft_frac > 0.97


def test_targets_are_judged_apart() -> None:
    """Late first tokens say nothing of the time per token."""
    misses = Misses(TARGETS, 0.1)
    for _ in repeat(None, 50):
        outcome = Outcome(margins=WHOLE, predicted_ttft_s=1.9, predicted_tpot_s=0.09, ttft_s=4.0, tpot_s=0.08)
        misses.fold("m", outcome)
    assert misses.margins("m").ttft_frac < 0.7
    assert misses.margins("m").tpot_frac == 1.0


def test_what_no_margin_would_have_kept_in_time_says_nothing() -> None:
    """A prompt longer than the target allows, an engine that is too slow, an end without a token."""
    misses = Misses(TARGETS, 0.1)
    hopeless = Outcome(margins=WHOLE, predicted_ttft_s=3.0, predicted_tpot_s=0.2, ttft_s=9.0, tpot_s=0.9)
    unknown = Outcome(margins=WHOLE, predicted_ttft_s=1.0, predicted_tpot_s=0.05, ttft_s=None, tpot_s=None)
    for outcome in (hopeless, unknown):
        for _ in repeat(None, 100):
            misses.fold("m", outcome)
    assert misses.margins("m") == WHOLE


def test_it_can_be_switched_off() -> None:
    """Where all may miss, nothing is kept."""
    misses = Misses(TARGETS, 1.0)
    for _ in repeat(None, 100):
        serve(misses, 3.0)
    assert misses.margins("m") == WHOLE


def test_memory_is_bounded() -> None:
    """The model that was under overload longest ago is forgotten first."""
    misses = Misses(TARGETS, 0.1)
    for number in range(MODELS_MAX + 1):
        for _ in repeat(None, 10):
            serve(misses, 3.0, f"m{number}")
    assert len(misses) == MODELS_MAX
    assert misses.margins("m0") == WHOLE
    assert misses.margins("m1") != WHOLE
