"""How long outputs are expected to become, learned from those that ended."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.learning.output_lengths import MODELS_MAX, OutputLengths


def learned(lengths: list[int], *, complete: bool = True) -> OutputLengths:
    """Expectations after these outputs."""
    known = OutputLengths()
    for tokens in lengths:
        known.fold("m", tokens, complete=complete)
    return known


def test_nothing_is_expected_before_enough_is_known() -> None:
    """Ignorance says so, and another model's outputs teach nothing."""
    assert OutputLengths().expect("m", 100) is None
    assert learned([50] * 7).expect("m", 100) is None
    assert learned([50] * 100).expect("other", 100) is None


@pytest.mark.parametrize("mean", [8, 60, 400])
def test_the_mean_is_learned(mean: int) -> None:
    """Geometric lengths, as models that end at any token write them, within a third of their mean."""
    rng = random.Random(1)
    lengths = [1 + int(rng.expovariate(1 / mean)) for _ in range(2000)]
    expected = learned(lengths).expect("m", 100_000)
    assert expected is not None
    assert abs(expected - mean) < mean / 3


def test_limits_do_not_teach_that_outputs_are_short() -> None:
    """Outputs cut at 64 tokens say nothing of what comes behind: long ones still count in full."""
    known = learned([64] * 200, complete=False)
    for _ in range(50):
        known.fold("m", 1000, complete=True)
    expected = known.expect("m", 4096)
    assert expected is not None
    assert expected > 600


def test_nothing_is_expected_beyond_what_was_seen() -> None:
    """A model known only by outputs cut at 16 tokens is not taken to fill a limit of 100,000."""
    expected = learned([16] * 100, complete=False).expect("m", 100_000)
    assert expected is not None
    assert expected < 64


def test_old_outputs_fade() -> None:
    """After a change of habits the new ones speak."""
    known = learned([2000] * 500)
    for _ in range(3000):
        known.fold("m", 20, complete=True)
    expected = known.expect("m", 4096)
    assert expected is not None
    assert expected < 60


@given(
    st.lists(st.tuples(st.integers(0, 1 << 25), st.booleans()), max_size=60),
    st.integers(1, 1 << 25),
)
def test_an_expectation_keeps_to_its_limit(ends: list[tuple[int, bool]], limit: int) -> None:
    """Whatever ended how, an expectation is within 1 and the limit."""
    known = OutputLengths()
    for tokens, complete in ends:
        known.fold("m", tokens, complete=complete)
    expected = known.expect("m", limit)
    assert expected is None or 1 <= expected <= limit


def test_memory_is_bounded() -> None:
    """However many models there are."""
    known = OutputLengths()
    for number in range(2 * MODELS_MAX):
        known.fold(f"m{number}", 10, complete=True)
    assert len(known) == MODELS_MAX
