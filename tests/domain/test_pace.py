"""The pace of an engine: found, kept steady, and not fooled by a standstill."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.pace import FACTOR_MAX, GRID, Pace, PaceRecord, StepSpan, correct
from services.domain.performance import PRESETS

FACTORS = st.floats(0.5, 8.0)
NEAR = GRID**1.8
"""Largest ratio of announced to true: the distance that may stay (0.75 grid steps), and what the prior draws
one phase by where the other is far off (one more)."""
SPANS = st.lists(st.tuples(st.floats(0.0, 0.3), st.floats(0.001, 0.05)), min_size=30, max_size=60)


def span(prefill_s: float, decode_s: float, prefill: float, decode: float) -> StepSpan:
    """Steps that take so many times as long as predicted."""
    return StepSpan(took_s=prefill_s * prefill + decode_s * decode, prefill_s=prefill_s, decode_s=decode_s)


@given(FACTORS)
def test_one_phase_alone_is_found_and_the_other_left(factor: float) -> None:
    """Who only decodes learns that pace and keeps the announced prefill; and the other way round."""
    decode, prefill = PaceRecord(), PaceRecord()
    for _ in range(1000):
        decode.fold(span(0.0, 0.02, 1.0, factor))
        prefill.fold(span(0.1, 0.0, factor, 1.0))
    assert 1 / NEAR < decode.pace.decode / factor < NEAR
    assert 1 / NEAR < prefill.pace.prefill / factor < NEAR
    assert decode.pace.prefill == prefill.pace.decode == 1.0


@given(FACTORS, FACTORS)
def test_both_phases_in_the_same_steps_are_told_apart(prefill: float, decode: float) -> None:
    """Spans with and without prompts together say what each phase costs."""
    record = PaceRecord()
    for turn in range(1000):
        record.fold(span(0.0 if turn % 4 else 0.1, 0.02, prefill, decode))
    assert 1 / NEAR < record.pace.prefill / prefill < NEAR
    assert 1 / NEAR < record.pace.decode / decode < NEAR


@given(SPANS)
def test_a_true_model_is_left_alone(parts: list[tuple[float, float]]) -> None:
    """Steps as predicted never change what is announced, so that equal workers stay equal."""
    record = PaceRecord()
    for p, d in parts:
        record.fold(span(p, d, 1.0, 1.0))
        assert record.pace == Pace()
    assert correct(PRESETS["cpu-baton-tiny"], record.pace) is PRESETS["cpu-baton-tiny"]


@given(SPANS, st.floats(1e-3, 1e4))
def test_factors_are_bounded(parts: list[tuple[float, float]], factor: float) -> None:
    """Whatever was measured, a factor stays within its bounds."""
    record = PaceRecord()
    for p, d in parts:
        record.fold(span(p, d, factor, factor))
    for announced in (record.pace.prefill, record.pace.decode):
        assert 1 / (FACTOR_MAX * GRID) <= announced <= FACTOR_MAX * GRID


def test_a_standstill_is_no_pace() -> None:
    """20 s of standing still in one step make it announced slower by a little, and not for long."""
    record = PaceRecord()
    for _ in range(500):
        record.fold(span(0.0, 0.006, 1.0, 1.0))
    record.fold(StepSpan(took_s=20.0, prefill_s=0.0, decode_s=0.006))
    assert record.pace.decode <= GRID
    for _ in range(500):
        record.fold(span(0.0, 0.006, 1.0, 1.0))
    assert record.pace == Pace()


def test_an_engine_that_recovers_is_announced_as_fast_again() -> None:
    """Old spans are forgotten: after some seconds of steps as predicted the model is as before."""
    record = PaceRecord()
    for _ in range(500):
        record.fold(span(0.0, 0.01, 1.0, 4.0))
    assert record.pace.decode == pytest.approx(4.0, rel=0.1)
    for _ in range(3000):
        record.fold(span(0.0, 0.01, 1.0, 1.0))
    assert record.pace == Pace()
