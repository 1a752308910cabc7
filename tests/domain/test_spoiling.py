"""How likely a prompt spoils those who decode beside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.spoiling import (
    LENGTHS_COUNT,
    WORTH_FRAC,
    WORTH_MOST_FRAC,
    LengthRecord,
    Standing,
    spoilt_count,
    spoilt_worth_s,
)

STANDING = st.builds(
    Standing,
    written_tokens=st.integers(0, 2000),
    stalls_count=st.integers(0, 20),
    ahead_s=st.floats(-5, 20),
)


def learned(*lengths: int) -> LengthRecord:
    """Make a record that has seen each length many times."""
    record = LengthRecord()
    for number in range(LENGTHS_COUNT):
        record.fold(lengths[number % len(lengths)])
    return record


def spoilt(record: LengthRecord, *standings: Standing, stall_s: float = 0.2, steps: int = 1) -> float:
    """Count for steps that are 10 ms shorter than their target."""
    return spoilt_count(
        standings,
        stall_s=stall_s,
        stalls_count=steps,
        gain_s=0.01,
        survival=record.survival(),
        most=float("inf"),
    )


FRESH = Standing(written_tokens=1, stalls_count=0, ahead_s=0.0)


def test_a_stall_is_made_up_for_by_what_will_still_be_written() -> None:
    """Where outputs have 400 tokens a fresh request bears a stall; where they have 50 it does not."""
    assert spoilt(learned(400), FRESH) == pytest.approx(0.0, abs=0.03)
    assert spoilt(learned(50), FRESH) == pytest.approx(1.0, abs=0.05)
    assert spoilt(learned(50, 400), FRESH) == pytest.approx(0.5, abs=0.05)


def test_what_is_spoilt_already_is_not_spoilt_again() -> None:
    """Ten stalls are more than any known output makes up for: one more changes little."""
    lost = Standing(written_tokens=50, stalls_count=10, ahead_s=1.0)
    assert spoilt(learned(400), lost) == pytest.approx(0.0, abs=0.03)


def test_a_request_behind_its_pace_is_spoilt_by_its_mean() -> None:
    """Its tail bears the stall, but it would have to write more than it will."""
    slow = Standing(written_tokens=350, stalls_count=0, ahead_s=0.0)
    assert spoilt(learned(400), slow, stall_s=0.1) == pytest.approx(0.0, abs=0.03)
    assert spoilt(learned(400), slow, stall_s=2.0) == pytest.approx(1.0, abs=0.25)


def test_old_lengths_are_forgotten() -> None:
    """The mean follows what ended last."""
    record = learned(1000)
    for _ in range(LENGTHS_COUNT):
        record.fold(10)
    assert record.mean_tokens < 20


@given(st.lists(STANDING, max_size=5), st.floats(0.001, 2), st.floats(0, 2), st.integers(1, 4))
def test_a_longer_stall_never_spoils_less(
    standings: list[Standing], stall_s: float, more_s: float, steps: int
) -> None:
    """Counts lie between none and all, and grow with the stall."""
    record = learned(30, 300, 900)
    short = spoilt(record, *standings, stall_s=stall_s, steps=steps)
    long = spoilt(record, *standings, stall_s=stall_s + more_s, steps=steps + 1)
    assert -1e-9 <= short <= long + 1e-9
    assert long <= len(standings) + 1e-9


def test_a_request_is_worth_fewer_seconds_the_longer_prompts_wait() -> None:
    """Half as many where they wait for twice as long, and no more than a share of the target."""
    target_s = 2.0
    assert spoilt_worth_s(0.0, target_s) == spoilt_worth_s(0.01, target_s) == WORTH_MOST_FRAC * target_s
    assert spoilt_worth_s(target_s, target_s) == pytest.approx(WORTH_FRAC * target_s)
    assert spoilt_worth_s(0.2, target_s) == pytest.approx(2 * spoilt_worth_s(0.4, target_s))
