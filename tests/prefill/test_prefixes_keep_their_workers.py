"""A task is left to the worker that holds its prefix while that one is worth waiting for, and no longer."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.domain.ids import WorkerId
from services.domain.task import Claim, QueuedTask
from services.prefill.ordering import OVERDUE_S, Leave, Take, order
from services.prefill.room import has_room
from tests.prefill.test_order_of_claims import claimant, queued

HOLDER = WorkerId("prefill-1")


def named(name: str, *, tokens: int, held_blocks: int, waited_s: float = 1.0) -> QueuedTask:
    """Make a task whose prefix HOLDER has."""
    task = queued(name, tokens=tokens, waited_s=waited_s)
    record = replace(task.record, preferred_worker_id=HOLDER, preferred_overlap_blocks=held_blocks)
    return replace(task, record=record)


def at_work(name: str, tokens: int) -> QueuedTask:
    """Make a task that HOLDER computes."""
    return replace(queued(name, tokens=tokens), claim=Claim(worker_id=HOLDER, attempt=1), attempts=1)


def test_a_busy_holder_is_waited_for_while_its_prefix_saves_more_than_its_work_takes() -> None:
    """Computing 8,000 tokens again is not worth it while the holder is done with 1,000 in a moment."""
    task = named("task", tokens=8000, held_blocks=490)
    assert isinstance(order([at_work("short", 1000), task], claimant(peers=2)), Leave)


def test_a_task_is_taken_from_a_holder_that_has_much_to_do() -> None:
    """When the holder is busy for seconds, an idle worker computes a short prefix again."""
    task = named("task", tokens=2000, held_blocks=60)
    choice = order([at_work("long", 60_000), task], claimant(peers=2))
    assert isinstance(choice, Take)


def test_what_is_meant_for_the_holder_counts_as_its_work() -> None:
    """Shorter tasks that wait for the same holder are ahead there, though nobody has claimed them."""
    task = named("task", tokens=2000, held_blocks=100)
    crowd = [named(f"crowd {i}", tokens=1900, held_blocks=118) for i in range(3)]
    alone = order([at_work("short", 100), task], claimant(peers=8))
    crowded = order([at_work("short", 100), task, *crowd], claimant(peers=8))
    assert isinstance(alone, Leave)
    assert isinstance(crowded, Take)
    assert crowded.queued.record.task_id == "task"


def test_an_idle_holder_that_does_not_claim_is_not_waited_for_for_good() -> None:
    """It may be gone: once a task has waited for longer than the prefix saves, anybody takes it."""
    task = named("task", tokens=8000, held_blocks=490, waited_s=5.0)
    assert isinstance(order([task], claimant(peers=2)), Take)


def test_an_overdue_task_does_not_go_first_where_it_fits_worse() -> None:
    """Under long overload a fleet that took the oldest anywhere would compute every prefix again."""
    overdue = named("overdue", tokens=60_000, held_blocks=60, waited_s=OVERDUE_S + 1)
    tasks = [at_work("long", 60_000), overdue, queued("fresh", tokens=100, waited_s=0.1)]
    elsewhere = order(tasks, claimant(peers=2))
    assert isinstance(elsewhere, Take)
    assert elsewhere.queued.record.task_id == "fresh"
    at_home = order(tasks[1:], claimant(HOLDER, peers=2))
    assert isinstance(at_home, Take)
    assert at_home.queued.record.task_id == "overdue"


@given(st.lists(st.integers(1, 9000), max_size=40), st.integers(1, 9000), st.integers(1, 30))
def test_room_ends_with_a_step_of_work_or_of_sequences(tokens: list[int], budget: int, most: int) -> None:
    """A worker that claims while it has room holds less than a step and one prompt, and never too many."""
    claimed: list[int] = []
    for one in tokens:
        if not has_room(claimed, step_tokens_max=budget, sequences_max=most):
            break
        claimed.append(one)
    assert len(claimed) <= most
    assert sum(claimed[:-1]) < budget or not claimed
