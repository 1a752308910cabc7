"""Routers that hear of workers late, and not of everything.

Comes in: workers' statuses, KV batches, departures; readings of the queue. Goes out: folds into each router,
late and with losses drawn from a seed, and snapshots where a router found a gap, as `services.router.feed`
fetches them. Invariant: news of one worker reaches one router in order. Not here: decisions.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from services.domain.blocks import KvEventBatch
from services.domain.ids import WorkerId
from services.domain.task import QueuedTask
from services.replay.presets import EngineTiming
from services.router.feed import BACKOFF_MIN_S, QUEUE_READ_EVERY_S
from services.router.prefixes.findings import GapFound
from services.router.router import Router
from services.router.settings import RouterSettings
from tests.bench.alone_engine import Clock
from tests.bench.alone_worker import PrefillWorker, writer_status

STATUS_PERIOD_S = 0.25
"""Default of `WorkerSettings.status_period_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """How what happens reaches the routers.

    Attributes:
        delay_s: least and most, of statuses, KV batches, departures and snapshots.
        lost_frac: share of KV batches that never come.
    """

    delay_s: tuple[float, float] = (0.1, 0.1)
    lost_frac: float = 0.0


class InformedRouter:
    """One router and the way of the news to it."""

    def __init__(
        self,
        clock: Clock,
        settings: RouterSettings,
        news: News,
        *,
        timing: EngineTiming,
        seed: int,
        queue: Callable[[], Iterable[QueuedTask]],
    ) -> None:
        """Begin without any worker but one that decodes.

        Args:
            clock: of the run.
            settings: of the router.
            news: how late and how lossy.
            timing: of the decode worker.
            seed: of delays and losses.
            queue: everything in it now.
        """
        self.router = Router(settings)
        self._clock, self._news, self._timing, self._queue = clock, news, timing, queue
        self._random = Random(seed)
        self._arrives_s: dict[WorkerId, float] = {}
        self._fetching: set[WorkerId] = set()
        self._writer_sequence = 0
        self.snapshot_count = 0
        self._hear_writer()
        self._read_queue()

    def joined(self, worker: PrefillWorker) -> None:
        """Hear of a worker from now on, as long as it takes work."""
        if not worker.draining:
            status = worker.status()
            self._later(
                worker, lambda: self._mend(worker, self.router.fold_status(status, self._clock.now_s))
            )
            self._clock.after(STATUS_PERIOD_S, lambda: self.joined(worker))

    def left(self, worker: PrefillWorker) -> None:
        """Hear that a worker is gone."""
        self._later(worker, lambda: self.router.fold_left(worker.worker_id))

    def stored(self, worker: PrefillWorker, batch: KvEventBatch) -> None:
        """Hear of a KV batch, or not."""
        if self._random.random() >= self._news.lost_frac:
            self._later(worker, lambda: self._mend(worker, self.router.fold_kv(batch)))

    def _later(self, worker: PrefillWorker, act: Callable[[], None]) -> None:
        now_s = self._clock.now_s
        arrives_s = now_s + self._random.uniform(*self._news.delay_s)
        arrives_s = max(arrives_s, self._arrives_s.get(worker.worker_id, 0.0))
        self._arrives_s[worker.worker_id] = arrives_s
        self._clock.after(arrives_s - now_s, act)

    def _mend(self, worker: PrefillWorker, gap: GapFound | None) -> None:
        if gap is not None and worker.worker_id not in self._fetching:
            self._fetching.add(worker.worker_id)
            self._fetch(worker)

    def _fetch(self, worker: PrefillWorker) -> None:
        snapshot = worker.holdings.snapshot()
        self.snapshot_count += 1

        def fold() -> None:
            self.router.fold_snapshot(snapshot)
            if worker.worker_id in self.router.awaiting_snapshot():
                self._clock.after(BACKOFF_MIN_S, lambda: self._fetch(worker))
            else:
                self._fetching.discard(worker.worker_id)

        self._clock.after(self._random.uniform(*self._news.delay_s), fold)

    def _hear_writer(self) -> None:
        self._writer_sequence += 1
        self.router.fold_status(writer_status(self._timing, self._writer_sequence), self._clock.now_s)
        self._clock.after(STATUS_PERIOD_S, self._hear_writer)

    def _read_queue(self) -> None:
        self.router.fold_queue(self._queue(), self._clock.now_s)
        self._clock.after(QUEUE_READ_EVERY_S, self._read_queue)
