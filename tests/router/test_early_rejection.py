"""What cannot be served in time is refused at once, with the time after which it can."""

from dataclasses import replace

from services.domain.errors import DeadlineUnmeetable, Rejected, Saturated
from services.domain.placement import Path, Placement, PlacementQuery
from services.domain.worker import WorkerLoad
from services.router.router import Router
from services.router.settings import RouterSettings
from tests.router.scenery import BOTH, DECODE, LIMITS, PREFILL, SPEED, query, router_of, worker

BUSY = WorkerLoad(waiting_count=10, waiting_prefill_tokens=100_000)
"""About two seconds of prefill."""


def asked(name: str = "r", **changes: object) -> PlacementQuery:
    """A query of 1,280 prompt tokens with other attributes."""
    return replace(query(name), **changes)  # type: ignore[arg-type]  # a test's own choice


def unmeetable(outcome: Placement | Rejected) -> DeadlineUnmeetable:
    """Insist on the error."""
    assert isinstance(outcome, DeadlineUnmeetable), outcome
    return outcome


def test_a_deadline_behind_the_work_ahead_is_refused_with_the_time_it_drains() -> None:
    """When the wait that is too long has passed, the same request is let in."""
    router = router_of(worker("d", DECODE, load=BUSY))
    error = unmeetable(router.place(asked(deadline_s=1.0), 0.0))
    assert error.predicted_s > error.deadline_s == 1.0
    assert error.retry_after_s is not None
    assert error.retry_after_s == error.predicted_s - 1.0
    assert isinstance(router.place(asked(deadline_s=error.predicted_s + 0.001), 0.0), Placement)


def test_what_an_idle_cluster_could_not_do_is_told_no_time() -> None:
    """Only a longer deadline helps; no time to come back is promised."""
    error = unmeetable(router_of(worker("d", DECODE)).place(asked(deadline_s=0.01), 0.0))
    assert error.retry_after_s is None
    assert "even without any wait" in error.message


def test_the_expected_output_counts() -> None:
    """A long answer misses a deadline that a short one meets; while nobody knows, the first token counts."""
    router = router_of(worker("d", DECODE))
    assert isinstance(router.place(asked("a", deadline_s=1.0, output_tokens_expected=64), 0.0), Placement)
    unmeetable(router.place(asked("b", deadline_s=1.0, output_tokens_expected=1000), 0.0))
    assert isinstance(router.place(asked("c", deadline_s=1.0, output_tokens_max=1000), 0.0), Placement)


def test_a_dearer_way_that_is_in_time_is_taken() -> None:
    """The cheapest way would be late: the other is chosen, and the record says why the first is out."""
    many = WorkerLoad(running_count=40, running_context_tokens=40_000, kv_used_blocks=2500)
    waiting = WorkerLoad(waiting_count=1, waiting_prefill_tokens=8_000)
    router = router_of(worker("d", DECODE, load=many), worker("p", PREFILL, load=waiting))
    free = router.place(asked("a"), 0.0)
    assert isinstance(free, Placement)
    assert free.path is Path.REMOTE
    hurried = router.place(asked("b", deadline_s=free.predicted_ttft_s / 2), 0.0)
    assert isinstance(hurried, Placement)
    assert hurried.path is Path.LOCAL
    assert any("after the deadline" in (c.excluded or "") for c in hurried.candidates)


def test_what_has_begun_is_never_refused_for_being_late() -> None:
    """A recovering request is placed whatever its deadline and however full everybody is."""
    crowd = replace(BUSY, running_count=256, running_context_tokens=256 * 4000, kv_used_blocks=4096)
    router = router_of(worker("d", DECODE, load=crowd))
    assert isinstance(router.place(asked("a", deadline_s=0.001), 0.0), Rejected)
    assert isinstance(router.place(asked("b", deadline_s=0.001, begun=True), 0.0), Placement)


def test_early_rejection_can_be_switched_off() -> None:
    """Then only what no worker could ever hold is refused."""
    router = Router(RouterSettings(early_rejection=False))
    router.fold_status(worker("d", DECODE, load=BUSY), 0.0)
    assert isinstance(router.place(asked(deadline_s=0.001), 0.0), Placement)


def test_a_full_decode_pool_is_waited_for() -> None:
    """One more sequence would push everybody beyond the bound: the refusal says when there is room."""
    crowd = WorkerLoad(running_count=200, running_context_tokens=200 * 12_000, kv_used_blocks=2000)
    router = router_of(worker("d", DECODE, load=crowd))
    outcome = router.place(asked(), 0.0)
    assert isinstance(outcome, Saturated)
    assert outcome.room_in_s is not None
    assert 0 < outcome.room_in_s == outcome.retry_after_s
    assert isinstance(router_of(worker("d", DECODE)).place(asked(), 0.0), Placement)


def test_memory_for_the_whole_answer_is_wanted() -> None:
    """Memory that holds the prompt but not what all are expected to write is full: no thrashing."""
    filling = WorkerLoad(running_count=20, running_context_tokens=20 * 2000, kv_used_blocks=3900)
    router = router_of(worker("d", DECODE, load=filling))
    assert isinstance(router.place(asked("a", output_tokens_max=4000), 0.0), Placement)
    outcome = router.place(asked("b", output_tokens_max=4000, output_tokens_expected=2000), 0.0)
    assert isinstance(outcome, Saturated)
    assert outcome.room_in_s is not None


def test_an_engine_slower_than_the_bound_still_serves_many() -> None:
    """Where one sequence alone misses the bound, the bound says nothing and refuses nobody."""
    slow = replace(SPEED, decode_step_s=0.5)
    load = WorkerLoad(running_count=5, running_context_tokens=500, kv_used_blocks=100)
    router = router_of(worker("d", DECODE, load=load, performance=slow))
    assert isinstance(router.place(asked(), 0.0), Placement)


def test_an_idle_worker_is_never_full() -> None:
    """Whatever is expected, as long as its limit fits the memory."""
    small = replace(LIMITS, kv_blocks=256, context_tokens_max=4096)
    router = router_of(worker("d", BOTH, limits=small))
    outcome = router.place(asked(output_tokens_max=2800, output_tokens_expected=2800), 0.0)
    assert isinstance(outcome, Placement)


def test_batch_work_leaves_room_for_interactive_work() -> None:
    """Between target and bound only interactive requests are let in."""
    crowd = WorkerLoad(running_count=200, running_context_tokens=200 * 4000, kv_used_blocks=2000)
    router = router_of(worker("d", DECODE, load=crowd))
    assert isinstance(router.place(asked("chat"), 0.0), Placement)
    outcome = router.place(asked("batch", priority=1), 0.0)
    assert isinstance(outcome, Saturated)


def test_a_burst_may_wait_and_a_standing_queue_may_not() -> None:
    """The same wait is allowed at first, refused once requests have long been late, allowed after calm."""
    router = router_of(worker("d", DECODE, load=BUSY))
    burst_s = router.settings.burst_s

    def outcome(at_s: float) -> Placement | Rejected:
        router.fold_status(worker("d", DECODE, load=BUSY, sequence=2 + int(at_s * 10)), at_s)
        return router.place(asked(f"r{at_s}"), at_s)

    seen = [isinstance(outcome(step * burst_s / 5), Placement) for step in range(5)]
    assert all(seen), "a burst"
    late = outcome(burst_s)
    assert isinstance(late, Saturated), "overload: the queue stands"
    assert late.room_in_s is None
    assert late.retry_after_s > 0
    assert isinstance(outcome(2 * burst_s + 0.1), Placement), "nobody was late or refused for as long"


def test_time_already_waited_counts() -> None:
    """What stood in line before is let wait for less."""
    router = router_of(worker("d", DECODE, load=BUSY))
    assert isinstance(router.place(asked("a", waited_s=0.0), 0.0), Placement)
    assert isinstance(router.place(asked("b", waited_s=9.0), 0.0), Saturated)


def test_prefilling_slows_decoding_down() -> None:
    """A decode worker whose statuses show prompts being computed gives fewer tokens a second."""
    router = router_of()
    load = WorkerLoad(
        running_count=50, running_context_tokens=50_000, waiting_count=2, waiting_prefill_tokens=4000
    )
    for number in range(60):
        router.fold_status(worker("d", DECODE, load=load, sequence=number + 1), number * 0.25)
    view = router.fleet.workers()[0]
    assert view.prefill_share > 0.9
    assert view.slowdown > 5
    quiet = replace(load, waiting_count=2, waiting_prefill_tokens=2)  # last tokens of prompts it pulled
    for number in range(60, 120):
        router.fold_status(worker("d", DECODE, load=quiet, sequence=number + 1), number * 0.25)
    assert router.fleet.workers()[0].slowdown < 1.01
