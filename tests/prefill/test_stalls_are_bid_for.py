"""A worker that decodes leaves a prompt to others for as long as the stall is worth."""

from dataclasses import replace

from services.domain.stalls import Decoding, Targets
from services.domain.task import QueuedTask
from services.prefill.ordering import Leave, Take, order
from tests.prefill.test_order_of_claims import claimant, queued

TARGETS = Targets(ttft_s=2.0, tpot_s=0.025, output_tokens=200.0)
SPOILT = Decoding(written_tokens=50, stalls_count=0, elapsed_s=0.4)
"""Its mean bears a short stall, its tail none: a stall is paid for."""
RICH = Decoding(written_tokens=2000, stalls_count=0, elapsed_s=20.0)
POOR = Decoding(written_tokens=2, stalls_count=0, elapsed_s=0.05)


def task(waited_s: float, *, tokens: int = 4000, ttft_target_s: float = 2.0) -> QueuedTask:
    """A task whose gateway says what requests are judged by."""
    plain = queued("t", tokens=tokens, waited_s=waited_s, ttft_target_s=ttft_target_s)
    return replace(plain, record=replace(plain.record, targets=TARGETS))


def test_who_decodes_nothing_takes_it_at_once() -> None:
    """No stall, no price."""
    assert isinstance(order([task(0.0)], claimant()), Take)


def test_a_stall_that_is_borne_costs_nothing() -> None:
    """A long answer has a gap in a hundred to spare."""
    assert isinstance(order([task(0.0)], replace(claimant(), decoding=(RICH,))), Take)


def test_a_stall_is_worth_some_waiting() -> None:
    """The task is left to others at first, and taken once it has waited for the price."""
    busy = replace(claimant(), decoding=(SPOILT,) * 3)
    early = order([task(0.0)], busy)
    assert isinstance(early, Leave)
    assert early.retry_s is not None
    assert isinstance(order([task(early.retry_s)], busy), Take)


def test_more_who_are_spoilt_make_it_dearer() -> None:
    """Each of them loses."""
    waits = []
    for count in (1, 4):
        choice = order([task(0.0)], replace(claimant(), decoding=(SPOILT,) * count))
        assert isinstance(choice, Leave)
        assert choice.retry_s is not None
        waits.append(choice.retry_s)
    assert waits[1] > waits[0]


def test_what_nobody_bears_is_left_while_another_is_free() -> None:
    """However long it waits: a worker that decodes nothing is there for it."""
    busy = replace(claimant(), decoding=(POOR,), has_free_peer=True)
    choice = order([task(1.99)], busy)
    assert isinstance(choice, Leave)
    assert choice.retry_s is not None
    assert choice.retry_s > 0


def test_when_everybody_decodes_it_is_taken_before_it_is_late() -> None:
    """Nobody else would come, so it waits until its first token would be late, and no longer."""
    busy = replace(claimant(), decoding=(POOR,))
    choice = order([task(0.0)], busy)
    assert isinstance(choice, Leave)
    assert choice.retry_s is not None
    taken = order([task(choice.retry_s)], busy)
    assert isinstance(taken, Take)
    assert choice.retry_s + taken.prefill_s <= 2.0 + 1e-9


def test_without_targets_nothing_is_priced() -> None:
    """A gateway that does not know how long answers become says so, and the prompt is not held back."""
    assert isinstance(order([queued("t")], replace(claimant(), decoding=(POOR,))), Take)
