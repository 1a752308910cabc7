"""A worker that decodes leaves a prompt to others for as long as what it would spoil is worth."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.domain.performance import PrefillChunk
from services.domain.slo import Slo
from services.domain.spoiling import Decoding, LengthRecord
from services.domain.task import QueuedTask
from services.domain.together import together
from services.prefill.ordering import Claimant, Leave, Take, order
from services.prefill.stalling import Stalls
from tests.prefill.test_order_of_claims import claimant, queued

SLO = Slo(ttft_s=2.0, tpot_s=0.025)
RICH = Decoding(written_tokens=2000, stalls_count=0, elapsed_s=20.0)
"""A long answer, well ahead: it has gaps to spare."""
FRESH = Decoding(written_tokens=2, stalls_count=0, elapsed_s=0.02)


def task(waited_s: float, *, tokens: int = 4000) -> QueuedTask:
    """A task whose gateway says what requests are judged by."""
    plain = queued("t", tokens=tokens, waited_s=waited_s, ttft_target_s=SLO.ttft_s)
    return replace(plain, record=replace(plain.record, slo=SLO))


def busy(*decoding: Decoding, free_peer: bool = False, begins: Sequence[int] = ()) -> Claimant:
    """A worker that decodes; outputs have the length that is believed before any has ended.

    Args:
        decoding: what its sequences have behind them.
        free_peer: whether another one decodes nothing.
        begins: lengths of the prompts that it has claimed and its engine has not begun.
    """
    worker = claimant()
    stalls = Stalls(
        decoding,
        survival=LengthRecord().survival(),
        decode_step_s=0.01,
        has_free_peer=free_peer,
        begins=together(
            (PrefillChunk(new_tokens=tokens, context_tokens=0) for tokens in begins),
            performance=worker.performance,
            step_tokens_max=worker.step_tokens_max,
        ),
    )
    return replace(worker, stalls=stalls)


def left_s(worker: Claimant, waited_s: float = 0.0, tokens: int = 4000) -> float:
    """How long the worker leaves the task to others; 0 when it takes it."""
    choice = order([task(waited_s, tokens=tokens)], worker)
    if isinstance(choice, Take):
        return 0.0
    assert isinstance(choice, Leave)
    assert choice.retry_s is not None
    return choice.retry_s


def test_who_decodes_nothing_takes_it_at_once() -> None:
    """No stall, no price."""
    assert left_s(busy()) == 0.0


def test_a_stall_that_is_borne_costs_nothing() -> None:
    """A long answer has a gap in a hundred to spare."""
    assert left_s(busy(RICH)) == 0.0


def test_a_stall_is_worth_some_waiting() -> None:
    """The task is left to others at first, and taken once it has waited for the price."""
    worker = busy(FRESH)
    wait_s = left_s(worker)
    assert wait_s > 0.0
    assert left_s(worker, waited_s=wait_s) == 0.0


def test_more_who_are_spoilt_make_it_dearer() -> None:
    """Each of them counts."""
    assert left_s(busy(FRESH, FRESH, free_peer=True)) > left_s(busy(FRESH, free_peer=True))


def test_what_is_too_dear_is_left_while_another_is_free() -> None:
    """However late it is by then: a worker that decodes nothing is there for it."""
    assert left_s(busy(*[FRESH] * 50, free_peer=True), waited_s=1.99) > 0.0


def test_when_everybody_decodes_it_is_taken_before_it_is_late() -> None:
    """Nobody else would come, so it waits until its first token would be late, and no longer."""
    worker = busy(*[FRESH] * 50)
    wait_s = left_s(worker)
    choice = order([task(wait_s)], worker)
    assert isinstance(choice, Take)
    assert wait_s + choice.prefill_s <= SLO.ttft_s + 1e-9


def test_without_targets_nothing_is_priced() -> None:
    """A task of which nobody says what requests are judged by is not held back."""
    assert isinstance(order([queued("t")], busy(FRESH)), Take)


def test_what_shares_a_stall_costs_little() -> None:
    """Beside a prompt that begins anyway a short one only makes the stall longer."""
    assert left_s(busy(FRESH, begins=[4000]), tokens=500) < 0.1 * left_s(busy(FRESH), tokens=500)


def test_what_needs_a_step_more_is_a_stall_of_its_own() -> None:
    """A step holds so many tokens, those of sequences that decode among them."""
    alone_s = left_s(busy(FRESH))
    assert left_s(busy(FRESH, begins=[4191])) < alone_s
    assert left_s(busy(FRESH, begins=[4192])) == alone_s


DECODING = st.lists(
    st.builds(
        Decoding,
        written_tokens=st.integers(0, 3000),
        stalls_count=st.integers(0, 20),
        elapsed_s=st.floats(0, 30),
    ),
    max_size=8,
)


@given(DECODING, st.lists(st.integers(1, 9000), max_size=3), st.integers(1, 9000))
def test_joining_is_never_dearer_than_a_stall_of_its_own(
    decoding: Sequence[Decoding], begins: Sequence[int], tokens: int
) -> None:
    """It never costs less than nothing, and never less than a shorter one."""
    worker = busy(*decoding, free_peer=True, begins=begins)
    joined_s = left_s(worker, tokens=tokens)
    assert 0.0 <= joined_s <= left_s(busy(*decoding, free_peer=True), tokens=tokens)
    assert left_s(worker, tokens=tokens // 2 + 1) <= joined_s + 1e-9


@given(DECODING, st.integers(100, 20_000))
def test_a_longer_prompt_is_never_cheaper(decoding: Sequence[Decoding], tokens: int) -> None:
    """It stalls the same requests for longer, in at least as many steps."""
    shorter = left_s(busy(*decoding, free_peer=True), tokens=tokens)
    assert left_s(busy(*decoding, free_peer=True), tokens=2 * tokens) >= shorter - 1e-9
