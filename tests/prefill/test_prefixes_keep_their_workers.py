"""A task is left to the worker that holds or computes its prefix while it is worth waiting for, no longer."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.domain.blocks import BlockHash
from services.domain.ids import WorkerId
from services.domain.task import PREFIX_MARKS_MAX, Claim, QueuedTask, mark_prefix
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


def alike(task: QueuedTask, *, blocks: int, kind: int = 1) -> QueuedTask:
    """Give a prompt the marks of one that begins with so many blocks of a kind, and goes on by itself."""
    own = 10**6 * int.from_bytes(task.record.task_id.encode()[:4], "little")
    count = task.record.prompt_tokens // 16
    hashes = [BlockHash(kind * 10**4 + i if i < blocks else own + i) for i in range(count)]
    return replace(task, record=replace(task.record, marks=mark_prefix(hashes)))


def test_what_begins_alike_is_left_to_the_worker_that_computes_it() -> None:
    """Nobody holds the prefix yet, but to compute it twice takes longer than to wait for the first."""
    first = alike(at_work("first", 4000), blocks=240)
    second = alike(queued("second", tokens=4000, waited_s=1.0), blocks=240)
    assert isinstance(order([first, second], claimant(peers=2)), Leave)
    other = alike(queued("other", tokens=4000, waited_s=1.0), blocks=240, kind=2)
    assert isinstance(order([first, other], claimant(peers=2)), Take)


def test_a_worker_ends_a_prefix_before_it_begins_what_shares_it() -> None:
    """It holds the blocks only then; in one step with the first one, all would be computed again."""
    first = alike(at_work("first", 4000), blocks=240)
    second = alike(queued("second", tokens=4000, waited_s=1.0), blocks=240)
    assert isinstance(order([first, second], claimant(HOLDER, peers=2)), Leave)
    held = frozenset(mark.block_hash for mark in first.record.marks)
    assert isinstance(order([first, second], claimant(HOLDER, peers=2, holds=held)), Take)


def test_a_short_beginning_is_not_waited_for_behind_a_long_prompt() -> None:
    """Computing a few blocks again takes less time than the prompt that also begins with them."""
    first = alike(at_work("first", 60_000), blocks=16)
    second = alike(queued("second", tokens=2000, waited_s=1.0), blocks=16)
    assert isinstance(order([first, second], claimant(peers=2)), Take)


def test_the_only_worker_does_not_wait_for_one_that_is_gone() -> None:
    """A claim of a worker that died stands until it lapses; nobody else could come for the others."""
    first = alike(at_work("first", 4000), blocks=240)
    second = alike(queued("second", tokens=4000, waited_s=1.0), blocks=240)
    assert isinstance(order([first, second], claimant(peers=1)), Take)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 5000))
def test_marks_of_prompts_that_begin_alike_meet(one: int, other: int, common: int) -> None:
    """Whatever their lengths, they share a mark less than two strides of the longer one before they part."""
    common = min(common, one, other)
    chains = [
        [BlockHash(i if i < common else own + i) for i in range(count)]
        for count, own in ((one, 10**6), (other, 10**7))
    ]
    first, second = (dict(mark_prefix(chain)) for chain in chains)
    shared = max((d for d in first if first[d] == second.get(d)), default=0)
    stride = -(-max(one, other) // (PREFIX_MARKS_MAX - 1))
    assert common - 2 * stride < shared <= common
    assert all(len(chain) <= PREFIX_MARKS_MAX for chain in (first, second))
    assert max(first) == one
