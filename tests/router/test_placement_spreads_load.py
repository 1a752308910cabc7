"""Load decides between equals, and counts before any status shows it."""

from collections import Counter

from services.domain.ids import GatewayId, RequestId, TaskId, WorkerId
from services.domain.placement import Path, PathPreference, Placement
from services.domain.task import Claim, QueuedTask, TaskRecord
from services.domain.worker import WorkerLoad
from services.router.router import Router
from services.router.settings import RouterSettings
from tests.router.scenery import DECODE, MODEL, PREFILL, decode_query, placed, query, router_of, worker


def task(name: str, *, prompt_tokens: int, claimed_by: str | None = None) -> QueuedTask:
    """A task as the queue's mirror shows it."""
    return QueuedTask(
        record=TaskRecord(
            task_id=TaskId(name),
            gateway_id=GatewayId("g"),
            model=MODEL,
            priority=0,
            prompt_tokens=prompt_tokens,
            marks=(),
            deadline_s=None,
            ttft_target_s=1.0,
        ),
        revision=1,
        claim=None if claimed_by is None else Claim(worker_id=WorkerId(claimed_by), attempt=1),
        attempts=0 if claimed_by is None else 1,
        waited_s=0.0,
    )


def test_the_idle_worker_is_chosen_before_the_busy_ones() -> None:
    """Prompt tokens accepted before are a wait, priced by the worker's own model."""
    busy = WorkerLoad(waiting_count=1, waiting_prefill_tokens=4000)
    router = router_of(worker("a", DECODE, load=busy), worker("b", DECODE), worker("c", DECODE, load=busy))
    assert placed(router, query()).worker_id == "b"


def test_no_herd_within_one_status_period() -> None:
    """Between two statuses equal workers take equal shares, because own placements count at once."""
    router = router_of(*(worker(f"d{i}", DECODE) for i in range(10)))
    chosen = Counter(placed(router, query(f"r{i}")).worker_id for i in range(100))
    assert set(chosen.values()) == {10}


def test_no_herd_of_handoffs_within_one_status_period() -> None:
    """The same holds for sequences handed over to decode workers."""
    router = router_of(*(worker(f"d{i}", DECODE) for i in range(5)))
    outcomes = [router.place_decode(decode_query(f"r{i}"), 0.0) for i in range(50)]
    chosen = Counter(outcome.worker_id for outcome in outcomes if not isinstance(outcome, Exception))
    assert set(chosen.values()) == {10}


def test_a_status_takes_over_from_the_placements_it_can_show() -> None:
    """A placement stops counting with the first status that arrives after it had time to show."""
    settings = RouterSettings(placement_settle_s=0.1)
    router = Router(settings)
    router.fold_status(worker("d0", DECODE), 0.0)
    assert isinstance(router.place(query("early"), 1.0), Placement)
    assert isinstance(router.place(query("late"), 1.95), Placement)
    router.fold_status(worker("d0", DECODE, sequence=2), 2.0)
    view = router.fleet.get(WorkerId("d0"))
    assert view is not None
    assert (router.fleet.placed_count(), view.sequence_count) == (1, 1)


def test_an_ended_request_is_no_load() -> None:
    """A request that ends before any status showed it leaves nothing behind."""
    router = router_of(worker("d0", DECODE))
    before = router.fleet.get(WorkerId("d0"))
    placed(router, query("r1"))
    assert router.fleet.get(WorkerId("d0")) != before
    router.fold_ended(RequestId("r1"))
    assert router.fleet.get(WorkerId("d0")) == before


def test_the_ledger_is_bounded() -> None:
    """Never more placements are remembered than the setting says; the oldest goes first."""
    router = Router(RouterSettings(placements_max=8))
    router.fold_status(worker("d0", DECODE), 0.0)
    for i in range(20):
        placed(router, query(f"r{i}"))
    view = router.fleet.get(WorkerId("d0"))
    assert view is not None
    assert (router.fleet.placed_count(), view.sequence_count) == (8, 8)


def test_waiting_prompts_are_shared_by_the_prefill_workers() -> None:
    """The queue's wait shrinks with the number of prefill workers and includes prompts just sent."""
    waits = []
    for count in (1, 4):
        router = router_of(*(worker(f"p{i}", PREFILL) for i in range(count)), worker("d0", DECODE))
        router.fold_queue([task(f"t{i}", prompt_tokens=2048) for i in range(8)], 0.0)
        waits.append(placed(router, query(preference=PathPreference.REMOTE)).candidates[0].wait_s)
    assert waits[0] > 3 * waits[1]
    assert router.queue_load(MODEL).waiting_count == 9


def test_a_prompt_sent_to_the_queue_is_counted_once() -> None:
    """A reading of the queue that came late enough replaces the memory of having sent it."""
    router = router_of(worker("p0", PREFILL), worker("d0", DECODE))
    placed(router, query("r1", preference=PathPreference.REMOTE))
    assert router.queue_load(MODEL).waiting_tokens == 1280
    router.fold_queue([task("t1", prompt_tokens=1280)], 1.0)
    assert router.queue_load(MODEL).waiting_tokens == 1280
    router.fold_queue([], 2.0)
    assert router.queue_load(MODEL).waiting_tokens == 0


def test_a_claim_is_load_of_its_worker_until_a_status_shows_it() -> None:
    """A claimed prompt moves from the queue's wait to its worker's, and ends with the task."""
    router = router_of(worker("p0", PREFILL), worker("p1", PREFILL), worker("d0", DECODE))
    router.fold_queue([task("t1", prompt_tokens=8000, claimed_by="p0")], 0.0)
    placement = placed(router, query("r1", preference=PathPreference.REMOTE))
    assert (placement.path, placement.worker_id) == (Path.REMOTE, "p1")
    assert router.fleet.placed_count() == 1
    router.fold_queue([], 0.0)
    assert router.fleet.placed_count() == 0
