"""Who else may take a task, as the fleet's changes tell."""

from dataclasses import replace

from services.bus.port import WorkerLeft, WorkerSeen
from services.domain.ids import WorkerId
from services.domain.worker import Lifecycle, WorkerLoad, WorkerStatus
from services.worker.peers import Peers
from tests.router.scenery import BOTH, DECODE, LIMITS, MODEL, PREFILL, worker

ME = WorkerId("me")
OTHER = replace(LIMITS, compatibility="another")


def peers_of(*statuses: WorkerStatus) -> Peers:
    """Tell of workers."""
    peers = Peers(ME, MODEL)
    for status in statuses:
        peers.fold(WorkerSeen(status=status))
    return peers


def test_those_who_prefill_the_model_count() -> None:
    """Itself once, decode workers and other models not."""
    peers = peers_of(
        worker("me", BOTH),
        worker("a", PREFILL),
        worker("b", BOTH),
        worker("c", DECODE),
        worker("d", PREFILL, model="other"),
    )
    assert peers.count == 3
    peers.fold(WorkerLeft(worker_id=WorkerId("a")))
    assert peers.count == 2
    peers.fold(WorkerSeen(status=worker("b", DECODE)))  # it was turned
    assert peers.count == 1
    assert Peers(ME, MODEL).count == 1


def test_a_free_peer_decodes_nothing_and_takes_work() -> None:
    """One that decodes, drains or left is none; this worker is not its own peer."""
    busy = WorkerLoad(running_count=1)
    assert not peers_of(worker("me", BOTH), worker("a", BOTH, load=busy)).has_free
    assert not peers_of(worker("a", PREFILL, lifecycle=Lifecycle.DRAINING)).has_free
    peers = peers_of(worker("a", PREFILL), worker("b", BOTH, load=busy))
    assert peers.has_free
    peers.fold(WorkerSeen(status=worker("a", PREFILL, load=busy)))
    assert not peers.has_free


def test_kv_is_read_by_workers_of_its_layout_that_take_sequences() -> None:
    """Until one is known nobody is refused; then one of the layout must be there, ready and decoding."""
    own, other = LIMITS.compatibility, OTHER.compatibility
    assert peers_of(worker("a", PREFILL)).can_read(own)
    peers = peers_of(worker("a", PREFILL), worker("b", DECODE, limits=OTHER))
    assert not peers.can_read(own)
    assert peers.can_read(other)
    peers.fold(WorkerSeen(status=worker("c", BOTH)))
    assert peers.can_read(own)
    peers.fold(WorkerSeen(status=worker("c", PREFILL)))  # it was turned
    assert not peers.can_read(own)
    assert peers_of(worker("b", DECODE, model="other", limits=OTHER)).can_read(own)
    peers.fold(WorkerLeft(worker_id=WorkerId("b")))
    assert peers.can_read(own)
