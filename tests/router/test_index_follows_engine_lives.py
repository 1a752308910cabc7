"""Sequence numbers and epochs keep the index honest through losses, restarts and late messages."""

from services.domain.blocks import KvSnapshot
from services.domain.ids import EngineEpoch, WorkerId
from services.router.prefixes.findings import Applied, GapFound, StaleEpoch, UnknownWorker, Waiting
from services.router.router import Router
from services.router.settings import RouterSettings
from tests.router.scenery import DECODE, worker
from tests.router.test_index_equals_its_model import CAPACITY, CHAIN, E1, batch, index_of, stored

W = WorkerId("a")
E2 = EngineEpoch("e2")


def snapshot(sequence: int, depth: int, epoch: EngineEpoch = E1) -> KvSnapshot:
    """A cache that holds the first blocks of the chain."""
    return KvSnapshot(worker_id=W, epoch=epoch, sequence=sequence, stored=(stored(CHAIN[:depth]),))


def test_batches_that_waited_are_applied_behind_the_snapshot() -> None:
    """Nothing that arrived while the snapshot was fetched is lost, and nothing is applied twice."""
    index = index_of((W,))
    index.fold(batch(W, 3, stored(CHAIN[:3])))
    assert index.fold(batch(W, 4, stored(CHAIN[:10]))) == Waiting(worker_id=W)
    assert index.fold_snapshot(snapshot(3, 5)) == Applied(worker_id=W)
    assert index.overlaps(CHAIN) == {W: 10}
    assert index.fold(batch(W, 5, stored(CHAIN[:11]))) == Applied(worker_id=W)
    assert index.awaiting() == ()


def test_waiting_batches_are_bounded() -> None:
    """The oldest waiting batch goes first; the snapshot then shows the gap and another is asked for."""
    index = index_of((W,))
    index.fold(batch(W, 3, stored(CHAIN[:1])))
    dropped = [index.fold(batch(W, n, stored(CHAIN[:n]))) for n in range(4, 10)]
    assert sum(a.dropped_count for a in dropped if isinstance(a, Waiting)) == 3
    assert index.fold_snapshot(snapshot(3, 3)) == GapFound(worker_id=W, expected=4, got=6)
    assert index.awaiting() == (W,)
    assert isinstance(index.fold_snapshot(snapshot(6, 6)), Applied)
    assert index.overlaps(CHAIN) == {W: 9}


def test_a_new_life_starts_empty() -> None:
    """With the first status of a new epoch everything of the old one is gone, and stays gone."""
    index = index_of((W,))
    index.fold(batch(W, 1, stored(CHAIN[:50])))
    assert index.fold_worker(W, epoch=E2, kv_blocks=CAPACITY, kv_sequence=0) == Applied(worker_id=W)
    assert index.fold(batch(W, 1, stored(CHAIN[:2]), epoch=E2)) == Applied(worker_id=W)
    assert index.overlaps(CHAIN) == {W: 2}
    assert index.fold(batch(W, 2, stored(CHAIN[:60]))) == StaleEpoch(worker_id=W)
    assert index.fold_snapshot(snapshot(9, 60)) == StaleEpoch(worker_id=W)
    assert index.overlaps(CHAIN) == {W: 2}


def test_events_ahead_of_their_status_are_missed_and_fetched() -> None:
    """Events of a life that no status named yet may be of one long past; if not, the status shows the gap."""
    index = index_of((W,))
    index.fold(batch(W, 1, stored(CHAIN[:50])))
    assert index.fold(batch(W, 1, stored(CHAIN[:2]), epoch=E2)) == StaleEpoch(worker_id=W)
    assert index.overlaps(CHAIN) == {W: 50}
    gap = index.fold_worker(W, epoch=E2, kv_blocks=CAPACITY, kv_sequence=1)
    assert gap == GapFound(worker_id=W, expected=1, got=1)
    assert index.overlaps(CHAIN) == {}


def test_a_departed_life_does_not_come_back() -> None:
    """Found by simulation: an event that is late by a departure and a return changes nothing."""
    index = index_of((W,))
    index.forget(W)
    index.fold_worker(W, epoch=E2, kv_blocks=CAPACITY, kv_sequence=0)
    assert index.fold(batch(W, 1, stored(CHAIN[:50]))) == StaleEpoch(worker_id=W)
    assert index.fold(batch(W, 1, stored(CHAIN[:3]), epoch=E2)) == Applied(worker_id=W)
    assert index.overlaps(CHAIN) == {W: 3}


def test_a_life_joined_late_asks_for_a_snapshot() -> None:
    """A status of an engine that has published already means that batches were missed."""
    index = index_of(())
    answer = index.fold_worker(W, epoch=E1, kv_blocks=CAPACITY, kv_sequence=7)
    assert answer == GapFound(worker_id=W, expected=1, got=7)
    index.fold_snapshot(snapshot(7, 4))
    assert index.overlaps(CHAIN) == {W: 4}


def test_a_status_ahead_of_its_events_is_no_gap_yet() -> None:
    """A status may overtake a batch; only when the next status comes and it is still missing is it lost."""
    index = index_of((W,))
    for arrives in (True, False):
        before = 0 if arrives else 1
        told = index.fold_worker(W, epoch=E1, kv_blocks=CAPACITY, kv_sequence=before + 1)
        assert isinstance(told, Applied)
        if arrives:
            index.fold(batch(W, 1, stored(CHAIN[:1])))
    assert index.fold_worker(W, epoch=E1, kv_blocks=CAPACITY, kv_sequence=2) == GapFound(
        worker_id=W, expected=2, got=2
    )


def test_a_repeated_batch_changes_nothing() -> None:
    """Duplicates are recognised by their number."""
    index = index_of((W,))
    index.fold(batch(W, 1, stored(CHAIN[:5])))
    index.fold(batch(W, 2, stored(CHAIN[:6])))
    assert index.fold(batch(W, 1, stored(CHAIN[:90]))) == StaleEpoch(worker_id=W)
    assert index.overlaps(CHAIN) == {W: 6}


def test_a_snapshot_older_than_what_is_known_is_refused() -> None:
    """A snapshot never takes the index back in time."""
    index = index_of((W,))
    index.fold(batch(W, 1, stored(CHAIN[:5])))
    index.fold(batch(W, 2, stored(CHAIN[:6])))
    assert index.fold_snapshot(snapshot(1, 5)) == StaleEpoch(worker_id=W)
    assert index.overlaps(CHAIN) == {W: 6}


def test_strangers_are_not_indexed() -> None:
    """Events of a worker without a status take no memory; its first status leads to a snapshot."""
    index = index_of(())
    assert index.fold(batch(W, 1, stored(CHAIN))) == UnknownWorker(worker_id=W)
    assert len(index) == 0
    assert isinstance(index.fold_worker(W, epoch=E1, kv_blocks=CAPACITY, kv_sequence=1), GapFound)


def test_a_worker_that_left_takes_its_blocks_along() -> None:
    """A departure empties the index of the worker's blocks at once."""
    router = Router(RouterSettings())
    router.fold_status(worker("a", DECODE), 0.0)
    router.fold_kv(batch(W, 1, stored(CHAIN)))
    router.fold_left(W)
    assert (len(router.index), router.index.blocks_max()) == (0, 0)


def test_an_index_that_keeps_promising_too_much_is_fetched_anew() -> None:
    """Four promises in a row that the engine did not keep drop the worker's index."""
    router = Router(RouterSettings())
    router.fold_status(worker("a", DECODE), 0.0)
    router.fold_kv(batch(W, 1, stored(CHAIN)))
    alarms = [router.fold_hit(W, promised_blocks=10, reused_tokens=0) for _ in range(4)]
    assert [a is not None for a in alarms] == [False, False, False, True]
    assert alarms[3] is not None
    assert "its engine reused none" in alarms[3].reason
    assert router.awaiting_snapshot() == (W,)
    assert router.index.overlaps(CHAIN) == {}


def test_hits_that_no_event_announced_raise_the_alarm_too() -> None:
    """An engine that reuses what the index never saw publishes other hashes, or none."""
    router = Router(RouterSettings())
    router.fold_status(worker("a", DECODE), 0.0)
    alarms = [router.fold_hit(W, promised_blocks=0, reused_tokens=160) for _ in range(4)]
    assert alarms[3] is not None
    assert "the index knew of none" in alarms[3].reason


def test_one_kept_promise_clears_the_doubt() -> None:
    """Evictions between placement and start are no alarm as long as some promise is kept."""
    router = Router(RouterSettings())
    router.fold_status(worker("a", DECODE), 0.0)
    reported = [0, 0, 0, 16, 0, 0, 0]
    assert not any(router.fold_hit(W, promised_blocks=2, reused_tokens=n) for n in reported)
