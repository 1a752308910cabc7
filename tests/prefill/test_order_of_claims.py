"""Which task a prefill worker takes: urgency, length, what it holds, and who else may want it."""

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.domain.blocks import BlockHash
from services.domain.ids import GatewayId, TaskId, WorkerId
from services.domain.performance import preset
from services.domain.task import Claim, PrefixMark, QueuedTask, TaskRecord
from services.prefill.ordering import OVERDUE_S, Claimant, Drop, Leave, Take, order

GATEWAY = GatewayId("gateway")
BLOCK_TOKENS = 16


def claimant(worker: str = "prefill-0", *, holds: frozenset[int] = frozenset(), peers: int = 1) -> Claimant:
    """Make a worker with room."""
    return Claimant(
        worker_id=WorkerId(worker),
        model="m",
        block_size_tokens=BLOCK_TOKENS,
        step_tokens_max=8192,
        performance=preset("h200-llama-3.1-8b-fp8"),
        holds=holds.__contains__,
        reachable=frozenset({GATEWAY}),
        peer_count=peers,
    )


def queued(
    name: str,
    *,
    tokens: int = 1000,
    waited_s: float = 0.0,
    priority: int = 0,
    ttft_target_s: float = 10.0,
    deadline_s: float | None = None,
    decode_s: float = 0.0,
    attempts: int = 0,
    marks: tuple[tuple[int, int], ...] = (),
) -> QueuedTask:
    """Make an unclaimed task."""
    record = TaskRecord(
        task_id=TaskId(name),
        gateway_id=GATEWAY,
        model="m",
        priority=priority,
        prompt_tokens=tokens,
        marks=tuple(PrefixMark(depth_blocks=d, block_hash=BlockHash(h)) for d, h in marks),
        deadline_s=deadline_s,
        ttft_target_s=ttft_target_s,
        decode_s=decode_s,
    )
    return QueuedTask(record=record, revision=1, claim=None, attempts=attempts, waited_s=waited_s)


def taken(tasks: list[QueuedTask], worker: Claimant) -> str:
    """Name the task that the worker takes."""
    choice = order(tasks, worker)
    assert isinstance(choice, Take)
    return choice.queued.record.task_id


def test_shortest_prefill_goes_first() -> None:
    """Of equally old tasks the one that is done soonest is taken."""
    assert taken([queued("long", tokens=8000), queued("short", tokens=100)], claimant()) == "short"


def test_what_is_cached_here_counts_as_done() -> None:
    """A long prompt whose prefix this worker holds is shorter than a middling one it has never seen."""
    cached = queued("cached", tokens=8000, marks=((250, 1), (490, 2)))
    fresh = queued("fresh", tokens=2000)
    assert taken([cached, fresh], claimant(holds=frozenset({1, 2}))) == "cached"
    assert taken([cached, fresh], claimant()) == "fresh"


def test_a_long_prompt_is_not_starved() -> None:
    """Waiting makes a long prompt move up, so an endless row of short ones does not keep it out."""
    old = queued("old", tokens=8000, waited_s=9.0)
    assert taken([old, queued("young", tokens=1000)], claimant()) == "old"


def test_priority_comes_before_everything() -> None:
    """A more urgent class is served first, whatever its length."""
    assert taken([queued("batch", tokens=10, priority=5), queued("chat", tokens=9000)], claimant()) == "chat"


def test_a_task_that_was_passed_over_for_too_long_goes_first() -> None:
    """Batch work that waited for OVERDUE_S is not overtaken any more, and the oldest goes first."""
    chat = queued("chat", tokens=10)
    almost = queued("almost", priority=5, waited_s=OVERDUE_S * 0.99)
    assert taken([chat, almost], claimant()) == "chat"
    overdue, older = (
        queued("overdue", waited_s=OVERDUE_S),
        queued("older", priority=9, waited_s=OVERDUE_S + 1),
    )
    assert taken([chat, almost, overdue], claimant()) == "overdue"
    assert taken([overdue, chat, older], claimant()) == "older"


def test_a_task_that_cannot_meet_its_deadline_is_dropped() -> None:
    """It is named with what is predicted and what was allowed; one that just can is taken."""
    prefill_s = claimant().performance.prompt_s(prompt_tokens=1000, cached_tokens=0, step_tokens_max=8192)
    just = queued("just", waited_s=1.0, decode_s=0.5, deadline_s=1.501 + prefill_s)
    assert taken([just], claimant()) == "just"
    choice = order([queued("late", waited_s=1.0, decode_s=0.5, deadline_s=1.499 + prefill_s)], claimant())
    assert isinstance(choice, Drop)
    assert choice.error.predicted_s == 1.5 + prefill_s
    assert choice.error.deadline_s == 1.499 + prefill_s
    assert choice.error.retry_after_s is not None
    assert choice.error.retry_after_s > 0


def test_what_has_begun_is_never_dropped() -> None:
    """A task that another worker claimed before and lost is taken, however late it is."""
    assert taken([queued("again", waited_s=5.0, deadline_s=5.0, attempts=1)], claimant()) == "again"


@given(
    st.lists(st.tuples(st.floats(0, 40), st.integers(1, 60_000), st.integers(-3, 3)), min_size=1, max_size=40)
)
def test_nobody_starves(arrivals: list[tuple[float, int, int]]) -> None:
    """Whatever arrives, a task waits at most OVERDUE_S, and then for what is older and for what runs."""
    worker = claimant()
    waiting = {
        f"t{i}": (at_s, tokens, priority) for i, (at_s, tokens, priority) in enumerate(sorted(arrivals))
    }
    work_s = {
        name: worker.performance.prompt_s(prompt_tokens=tokens, cached_tokens=0, step_tokens_max=8192)
        for name, (_, tokens, _) in waiting.items()
    }
    arrived_s = {name: row[0] for name, row in waiting.items()}
    now_s = 0.0
    while waiting:
        seen = [
            queued(name, tokens=tokens, waited_s=now_s - at_s, priority=priority, ttft_target_s=0.5)
            for name, (at_s, tokens, priority) in waiting.items()
            if at_s <= now_s
        ]
        if not seen:
            now_s = min(at_s for at_s, _, _ in waiting.values())
            continue
        name = taken(seen, worker)
        waited_s = now_s - arrived_s[name]
        older_s = sum(work_s[other] for other, at_s in arrived_s.items() if at_s <= arrived_s[name])
        assert waited_s <= OVERDUE_S + older_s + max(work_s.values()) + 1e-6
        now_s += work_s[name]
        del waiting[name]


def test_what_cannot_be_served_here_is_passed_over() -> None:
    """Claimed tasks, other models and unreachable gateways are left alone."""
    claimed = replace(queued("claimed"), claim=Claim(worker_id=WorkerId("other"), attempt=1))
    other = queued("other")
    other = replace(other, record=replace(other.record, model="another"))
    far = queued("far")
    far = replace(far, record=replace(far.record, gateway_id=GatewayId("unknown")))
    assert isinstance(order([claimed, other, far], claimant()), Leave)


def test_the_worker_that_holds_the_prefix_is_waited_for_no_longer_than_it_saves() -> None:
    """Another worker leaves the task for as long as the preferred one's cache saves, then takes it."""
    task = queued("t", tokens=8000)
    task = replace(
        task,
        record=replace(task.record, preferred_worker_id=WorkerId("prefill-1"), preferred_overlap_blocks=400),
    )
    assert isinstance(order([task], claimant("prefill-1", peers=2)), Take)
    waits = order([task], claimant("prefill-0", peers=2))
    assert isinstance(waits, Leave)
    assert waits.retry_s is not None
    saved_s = 400 * BLOCK_TOKENS * preset("h200-llama-3.1-8b-fp8").prefill_token_s
    assert waits.retry_s > saved_s
    assert isinstance(order([replace(task, waited_s=waits.retry_s)], claimant("prefill-0", peers=2)), Take)


def test_idle_workers_do_not_all_try_at_once() -> None:
    """Equal workers try for one task one after another, the preferred one at once."""
    task = queued("t")
    task = replace(task, record=replace(task.record, preferred_worker_id=WorkerId("prefill-0")))
    at_once = [i for i in range(8) if isinstance(order([task], claimant(f"prefill-{i}", peers=8)), Take)]
    assert at_once == [0]


@given(
    st.lists(
        st.tuples(st.integers(1, 100_000), st.floats(0, 100), st.integers(-2, 2)), min_size=1, max_size=20
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_queue_does_not_matter(
    rows: list[tuple[int, float, int]], shuffler: random.Random
) -> None:
    """The same tasks in another order give the same choice."""
    tasks = [queued(f"t{i}", tokens=n, waited_s=w, priority=p) for i, (n, w, p) in enumerate(rows)]
    first = taken(tasks, claimant())
    shuffler.shuffle(tasks)
    assert taken(tasks, claimant()) == first


def test_who_writes_kv_that_nobody_reads_claims_nothing() -> None:
    """Its prompts would be computed for nothing; it looks again later."""
    left = order([queued("a", waited_s=100.0)], replace(claimant(), has_reader=False))
    assert isinstance(left, Leave)
    assert "no decode worker can read" in left.reason
