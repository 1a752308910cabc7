"""Statuses age by the reader's clock, and only while they could have been renewed."""

from dataclasses import replace
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from services.domain.errors import NotReady
from services.domain.ids import WorkerId
from services.domain.placement import Placement
from services.domain.worker import Lifecycle, WorkerLoad
from services.router.fleet.filters import FILTERS_OF_WORKER, Need
from services.router.fleet.fleet_view import FleetView
from services.router.pricing.sifting import sift
from services.router.router import Router
from services.router.settings import RouterSettings
from tests.router.scenery import BOTH, DECODE, MODEL, query, router_of, worker

SETTINGS = RouterSettings(stale_after_s=2.0, forget_after_s=10.0)


def test_a_silent_worker_is_no_candidate() -> None:
    """An old status loses against a worker that speaks, however busy that one is."""
    router = Router(SETTINGS)
    router.fold_status(worker("silent", DECODE), 0.0)
    busy = WorkerLoad(waiting_count=1, waiting_prefill_tokens=9000)
    router.fold_status(worker("loud", DECODE, load=busy), 3.0)
    placement = router.place(query(), 3.0)
    assert isinstance(placement, Placement)
    assert placement.worker_id == "loud"
    assert placement.candidates[-1].excluded == "has been silent for 3.0 s"


def test_when_all_fell_silent_the_last_known_fleet_is_used() -> None:
    """Nothing is refused that a worker could serve: old news is better than none."""
    router = Router(SETTINGS)
    router.fold_status(worker("silent", DECODE), 0.0)
    assert isinstance(router.place(query(), 8.0), Placement)


def test_a_worker_silent_for_long_is_forgotten() -> None:
    """After `forget_after_s` the view and the index hold nothing of it."""
    router = Router(SETTINGS)
    router.fold_status(worker("gone", DECODE), 0.0)
    router.fold_status(worker("here", DECODE), 9.0)
    assert router.forget_silent(10.5) == ("gone",)
    assert [view.worker_id for view in router.fleet.workers()] == ["here"]
    assert router.index.blocks_max() == 4096 + 204


def test_time_without_the_bus_does_not_count() -> None:
    """A status cannot be renewed while the bus is away, so it does not age meanwhile."""
    router = Router(SETTINGS)
    router.fold_status(worker("d0", DECODE), 0.0)
    router.fold_bus(connected=False, now_s=1.0)
    assert router.forget_silent(1000.0) == ()
    router.fold_bus(connected=True, now_s=1000.0)
    assert router.forget_silent(1008.0) == ()
    assert router.forget_silent(1009.5) == ("d0",)


def test_an_older_status_changes_nothing() -> None:
    """Statuses of one epoch are taken in their order, whatever order they arrive in."""
    fleet = FleetView(SETTINGS)
    assert fleet.fold_status(worker("d0", DECODE, sequence=5), 0.0)
    assert not fleet.fold_status(worker("d0", DECODE, sequence=4, lifecycle=Lifecycle.DRAINING), 1.0)
    view = fleet.get(WorkerId("d0"))
    assert view is not None
    assert view.status.lifecycle is Lifecycle.READY


def test_only_ready_workers_take_new_work() -> None:
    """Starting and draining workers are known, and refused with their state."""
    for lifecycle in (Lifecycle.STARTING, Lifecycle.DRAINING, Lifecycle.STOPPED):
        outcome = router_of(worker("d0", DECODE, lifecycle=lifecycle)).place(query(), 0.0)
        assert isinstance(outcome, NotReady)
        assert f"d0 is {lifecycle}" in outcome.message


def test_a_change_of_role_moves_a_worker_between_groups() -> None:
    """A worker is offered for exactly the phases and the model of its last status."""
    fleet = FleetView(SETTINGS)
    fleet.fold_status(worker("w", BOTH), 0.0)
    fleet.fold_status(worker("w", DECODE, sequence=2), 0.1)
    assert [len(fleet.serving(MODEL, phase)) for phase in BOTH] == [0, 1]
    fleet.fold_left(WorkerId("w"))
    assert fleet.models() == ()


def test_the_view_is_bounded() -> None:
    """More workers than the setting allows are ignored and counted, the known ones still renewed."""
    fleet = FleetView(RouterSettings(workers_max=2))
    taken = [fleet.fold_status(worker(name, DECODE), 0.0) for name in ("a", "b", "c")]
    assert taken == [True, True, False]
    assert fleet.fold_status(worker("a", DECODE, sequence=2), 1.0)
    assert (len(fleet), fleet.ignored_count) == (2, 1)


def test_a_restarted_engine_owes_nothing() -> None:
    """What was placed on an engine's past life is gone with it."""
    router = router_of(worker("d0", DECODE))
    router.place(query(), 0.0)
    router.fold_status(replace(worker("d0", DECODE), epoch=worker("x", DECODE, epoch="e2").epoch), 0.01)
    view = router.fleet.get(WorkerId("d0"))
    assert view is not None
    assert view.sequence_count == 0


@given(
    lifecycle=st.sampled_from(Lifecycle),
    seen_at_s=st.floats(0, 10),
    avoid=st.frozensets(st.sampled_from((WorkerId("d0"), WorkerId("d1")))),
    stale_after_s=st.floats(0.1, 20),
)
def test_a_worker_is_able_when_no_filter_objects(
    lifecycle: Lifecycle, seen_at_s: float, avoid: frozenset[WorkerId], stale_after_s: float
) -> None:
    """Alone in its fleet it may be silent for any time; else it is able exactly when all filters agree."""
    fleet = FleetView(SETTINGS)
    fleet.fold_status(worker("d0", DECODE, lifecycle=lifecycle), seen_at_s)
    (view,) = fleet.workers()
    need = Need(tokens=1, avoid=avoid, now_s=10.0, stale_after_s=stale_after_s)

    def objections(asked: Need) -> list[str]:
        return [why for check in FILTERS_OF_WORKER.values() if (why := check(view, asked)) is not None]

    able, excluded = sift((view,), need)
    assert bool(able) == (not objections(need) or not objections(replace(need, stale_after_s=inf)))
    assert [why for _, why in excluded] == ([] if able else objections(need)[:1])


def test_a_goodbye_counts_until_the_worker_is_ready_again() -> None:
    """A draining worker says so over its link; the bus may still call it ready."""
    router = router_of(worker("a", DECODE), worker("b", DECODE))
    router.fold_goodbye(WorkerId("a"))
    router.fold_goodbye(WorkerId("never seen"))
    assert router.leaving() == ("a",)
    router.fold_status(worker("a", DECODE, lifecycle=Lifecycle.DRAINING, sequence=2), 1.0)
    assert router.leaving() == ("a",)
    router.fold_status(worker("a", DECODE, epoch="e2"), 2.0)
    assert router.leaving() == ()
