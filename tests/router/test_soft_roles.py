"""Workers that can do both fill up with sequences one after another; the others are left free to prefill."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.domain.ids import GatewayId, TaskId, WorkerId
from services.domain.placement import DecodePlacement, Path, PathPreference, Placement
from services.domain.task import Claim, QueuedTask, TaskRecord
from services.domain.worker import WorkerLoad, WorkerStatus
from services.router.learning.wait_record import WaitRecord
from services.router.roles import DemandRecord
from services.router.router import Router
from services.router.soft_roles import PERIOD_S, SoftRoles
from services.router.soft_roles import limit_of as limit_for
from tests.router.scenery import (
    BOTH,
    DECODE,
    MODEL,
    PREFILL,
    SPEED,
    decode_query,
    placed,
    query,
    router_of,
    worker,
)


def running(count: int, tokens_each: int = 500) -> WorkerLoad:
    """A worker that decodes some sequences."""
    blocks = count * tokens_each // 16
    return WorkerLoad(
        running_count=count, running_context_tokens=count * tokens_each, kv_used_blocks=min(4096, blocks)
    )


def limit_of(router: Router, *, prompts_per_s: float = 10.0, waits_s: float | None = None) -> float:
    """The limit while prompts of 50 ms come so often, and wait so long if that is known."""
    roles = SoftRoles(router.settings)
    for turn in range(round(10 * prompts_per_s)):
        asked = query(f"r{turn}")
        roles.fold(asked, Path.REMOTE, 0.05, turn / prompts_per_s, shared_s=0.05)
        if waits_s is not None:
            roles.step_limit_s(MODEL, router.fleet, turn / prompts_per_s)
            roles.fold_wait(asked.request_id, waits_s)
    limit_s = roles.step_limit_s(MODEL, router.fleet, 10.0)
    assert limit_s is not None
    return limit_s


def soft(*loads: int) -> list[WorkerStatus]:
    """Soft-roled workers that decode so many sequences each."""
    return [worker(f"s{i}", BOTH, load=running(load)) for i, load in enumerate(loads)]


def test_pools_of_one_role_have_no_limit() -> None:
    """Their roles are what somebody wanted."""
    router = router_of(worker("p", PREFILL), worker("d", DECODE))
    assert SoftRoles(router.settings).step_limit_s(MODEL, router.fleet, 0.0) is None


def test_prompts_raise_the_limit() -> None:
    """The more of them come, the fewer workers decode the same sequences, with longer steps."""
    router = router_of(*(worker(f"s{i}", BOTH, load=running(60, 100)) for i in range(4)))
    assert limit_of(router, prompts_per_s=50) > limit_of(router, prompts_per_s=5)


def test_waits_that_are_seen_raise_it() -> None:
    """Prompts that wait longer than predicted get workers that would have decoded."""
    router = router_of(*(worker(f"s{i}", BOTH, load=running(60, 100)) for i in range(4)))
    assert limit_of(router, prompts_per_s=20, waits_s=1.0) > limit_of(router, prompts_per_s=20, waits_s=0.0)


@given(st.lists(st.tuples(st.sampled_from(Path), st.none() | st.floats(0, 3)), max_size=30))
def test_a_wait_is_held_against_what_was_expected_of_that_prompt(
    turns: Sequence[tuple[Path, float | None]],
) -> None:
    """Prompts that no queue held, or whose wait nobody tells, as to a router on its own, say nothing."""
    router = router_of(*(worker(f"s{i}", BOTH, load=running(60, 100)) for i in range(4)))
    roles, demand, told = SoftRoles(router.settings), DemandRecord(), WaitRecord()
    views = router.fleet.workers()
    for turn, (path, wait_s) in enumerate(turns):
        now_s, asked = turn * 1.01 * PERIOD_S, query(f"r{turn}")
        limit_s, expected_s = limit_for(
            views, views, demand.demand(), router.settings, wait_factor=told.tail_factor
        )
        assert roles.step_limit_s(MODEL, router.fleet, now_s) == limit_s
        roles.fold(asked, path, 0.05, now_s, shared_s=0.05)
        demand.fold(0.05, now_s, shared_s=0.05)
        if wait_s is not None:
            for again in range(2):  # a handoff may be placed anew
                roles.fold_wait(asked.request_id, wait_s)
                if path is Path.REMOTE and not again:
                    told.expect(expected_s)
                    told.fold(wait_s)


def test_who_continues_a_prompt_is_asked_with_its_wait() -> None:
    """That is how a router learns it, also one on its own; a prompt that was placed anew says nothing."""

    def limit_s(waits_s: float | None, *, again: bool = False) -> float | None:
        router = router_of(*(worker(f"s{i}", BOTH, load=running(60, 100)) for i in range(4)))
        for turn in range(300):
            name, now_s = f"r{turn}", turn * 0.025
            asked = query(name, preference=PathPreference.REMOTE)
            assert isinstance(router.place(asked, now_s), Placement)
            if again:
                router.place(replace(asked, begun=True), now_s)
            router.place_decode(replace(decode_query(name), waited_s=waits_s), now_s)
            router.fold_ended(asked.request_id)
        return router.step_limit_s(MODEL, 300 * 0.025)

    assert limit_s(1.0) != limit_s(None)
    assert limit_s(1.0, again=True) == limit_s(None)


def test_full_memory_lowers_it() -> None:
    """What does not fit one worker's KV memory is given two, however short the step."""
    router = router_of(worker("full", BOTH, load=running(8, 8000)), *soft(0, 0, 0))
    assert limit_of(router) < SPEED.decode_s(sequence_count=9, context_tokens=64_000)


@given(st.lists(st.integers(0, 256), min_size=1, max_size=8), st.integers(0, 3), st.integers(0, 3))
def test_the_limit_is_within_the_target(loads: list[int], prefill: int, decode: int) -> None:
    """It leaves room beneath the TPOT target, and does not hang on the order of arrival."""
    fleet = [
        *soft(*loads),
        *(worker(f"p{i}", PREFILL) for i in range(prefill)),
        *(worker(f"d{i}", DECODE) for i in range(decode)),
    ]
    router = router_of(*fleet)
    limit_s = limit_of(router, prompts_per_s=1)
    assert 0.0 < limit_s <= router.settings.tpot_target_s
    assert limit_s == limit_of(router_of(*reversed(fleet)), prompts_per_s=1)


def test_a_limit_is_kept_for_a_moment() -> None:
    """It is found anew a few times a second, not for each request."""
    router = router_of(*soft(5, 0, 0))
    roles = SoftRoles(router.settings)
    before = roles.step_limit_s(MODEL, router.fleet, 0.0)
    for status in soft(100, 100, 100):
        router.fold_status(replace(status, sequence=2), 0.0)
    assert roles.step_limit_s(MODEL, router.fleet, PERIOD_S / 2) == before
    assert roles.step_limit_s(MODEL, router.fleet, PERIOD_S) != before


def test_a_prompt_is_left_to_bids() -> None:
    """The queue gets it, although the router would have begun it at once on an idle soft-roled worker."""
    placement = placed(router_of(*soft(0, 0)), query())
    assert placement.path is Path.REMOTE
    assert "bid" in placement.reason
    assert any(c.path is Path.LOCAL and c.excluded for c in placement.candidates)


def busy_router(*statuses: WorkerStatus) -> Router:
    """A router that knows that prompts come."""
    router = router_of(*statuses)
    for turn in range(100):
        asked = query(f"p{turn}", prompt_tokens=8000)
        placed(router, asked)
        router.fold_ended(asked.request_id)
    return router


def test_sequences_gather() -> None:
    """While prompts come, a handed-over sequence joins the others and leaves the rest free."""
    outcome = busy_router(*soft(4, 0, 0)).place_decode(decode_query(holder="s1"), 0.0)
    assert isinstance(outcome, DecodePlacement)
    assert outcome.worker_id == "s0"
    assert {c.worker_id for c in outcome.candidates if c.excluded} == {"s1", "s2"}


def test_a_full_one_opens_the_next_where_the_prompt_is() -> None:
    """Beyond the limit, the worker that computed the prompt begins to decode: nothing has to move."""
    outcome = busy_router(*soft(250, 0, 0)).place_decode(decode_query(holder="s2"), 0.0)
    assert isinstance(outcome, DecodePlacement)
    assert outcome.worker_id == "s2"


def test_workers_that_only_decode_come_first() -> None:
    """They can do nothing else."""
    router = busy_router(*soft(4, 0), worker("d", DECODE))
    outcome = router.place_decode(decode_query(holder="s1"), 0.0)
    assert isinstance(outcome, DecodePlacement)
    assert outcome.worker_id == "d"


def test_who_is_left_free_decodes_when_nobody_else_has_room() -> None:
    """Roles give way to memory."""
    full = WorkerLoad(running_count=1, running_context_tokens=500, kv_used_blocks=4096)
    router = router_of(worker("s0", BOTH, load=full), *soft(0, 0)[1:])
    outcome = router.place_decode(decode_query(), 0.0)
    assert isinstance(outcome, DecodePlacement)
    assert outcome.worker_id == "s1"


def test_nothing_moves_to_who_holds_it() -> None:
    """Of two equal workers the one that computed the prompt goes on with it."""
    router = router_of(worker("a", DECODE), worker("b", DECODE))
    for holder in ("a", "b"):
        asked = decode_query(holder=holder)
        outcome = router.place_decode(asked, 0.0)
        assert isinstance(outcome, DecodePlacement)
        assert outcome.worker_id == holder
        router.fold_ended(asked.request_id)


def test_who_computed_a_prompt_is_free_of_it_at_its_handoff() -> None:
    """The queue shows its claim a moment longer; all the same it goes on with it, and nothing has to move."""
    record = TaskRecord(
        task_id=TaskId("t"),
        gateway_id=GatewayId("g"),
        model=MODEL,
        priority=0,
        prompt_tokens=8000,
        marks=(),
        deadline_s=None,
        ttft_target_s=1.0,
    )
    claim = Claim(worker_id=WorkerId("s1"), attempt=1)
    claimed = QueuedTask(record=record, revision=2, claim=claim, attempts=1, waited_s=0.0)

    def continued_by(task_id: TaskId | None) -> DecodePlacement:
        router = busy_router(*soft(0, 0, 0))
        router.fold_queue((claimed,), 0.0)
        asked = replace(decode_query(context_tokens=8001, holder="s1"), task_id=task_id)
        outcome = router.place_decode(asked, 0.1)
        assert isinstance(outcome, DecodePlacement)
        router.fold_queue((claimed,), 0.2)  # still there: it is not counted again
        view = router.fleet.get(WorkerId("s1"))
        assert view is not None
        assert (view.backlog_s == 0.0) is (task_id is not None)
        return outcome

    assert continued_by(record.task_id).worker_id == "s1"
    assert continued_by(None).worker_id != "s1"
