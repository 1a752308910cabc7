"""What a queueing formula gets wrong is learned from the waits that were seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.performance import PRESETS
from services.router.learning.wait_record import FACTOR_MAX, TAIL_PER_MEAN, WaitRecord
from services.router.roles import Demand, decoder_count

MODEL = PRESETS["dynamo-mocker"]


def learned(*, expected_s: float, seen_s: float, count: int = 3_000) -> WaitRecord:
    """A record of so many prompts."""
    record = WaitRecord()
    for _ in range(count):
        record.expect(expected_s)
        record.fold(seen_s)
    return record


def test_at_first_the_formula_is_believed() -> None:
    """The 95th percentile of an exponential wait is three times its mean."""
    assert WaitRecord().tail_factor == pytest.approx(TAIL_PER_MEAN) == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize("ratio", [0.2, 1.0, 4.0])
def test_a_constant_error_is_found(ratio: float) -> None:
    """However far the formula is off, the factor makes up for it."""
    assert learned(expected_s=0.1, seen_s=0.1 * ratio).tail_factor == pytest.approx(
        TAIL_PER_MEAN * ratio, rel=0.1
    )


def test_a_few_waits_are_enough_to_begin_with() -> None:
    """A hundred prompts move it most of the way."""
    assert learned(expected_s=0.1, seen_s=0.4, count=100).tail_factor > 2.5 * TAIL_PER_MEAN


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=100))
def test_the_factor_is_bounded(waits: list[tuple[float, float]]) -> None:
    """Whatever was seen."""
    record = WaitRecord()
    for expected_s, seen_s in waits:
        record.expect(expected_s)
        record.fold(seen_s)
    assert 0 <= record.tail_factor <= TAIL_PER_MEAN * FACTOR_MAX


@given(st.floats(0.05, 6), st.floats(0, 20), st.floats(0.1, 10), st.integers(1, 100))
def test_longer_waits_never_give_decoding_more_workers(
    load: float, dispersion: float, factor: float, sequences: int
) -> None:
    """Workers that prompts are seen to lack are taken from those that decode."""
    demand = Demand(load=load, mean_s=0.2, variation=1.0, dispersion=dispersion)

    def decoders(wait_factor: float) -> int:
        return decoder_count(
            8,
            demand,
            step_s=lambda n: MODEL.decode_s(sequence_count=-(-sequences // n), context_tokens=0),
            ttft_target_s=2.0,
            tpot_target_s=0.025,
            wait_factor=wait_factor,
        )

    assert decoders(2 * factor) <= decoders(factor)
