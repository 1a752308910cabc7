"""The fleet as policies see it: as it is, or late.

Comes in: workers. Goes out: states and overlaps. Two delays are apart, as in a live cluster: counters are
as old as the last status, cache events arrive one by one, each after a delay.
Invariant: with no delay, what is seen is the workers' state at that moment. Not here: decisions.
"""

from collections import deque
from collections.abc import Sequence

from services.domain.spoiling import Decoding
from services.replay.policy import Running, WorkerState
from services.replay.presets import EngineTiming
from services.replay.worker import Worker


class PresentFleet:
    """Workers as they are now; the cluster's clock is `now_s`."""

    def __init__(self, workers: Sequence[Worker], timing: EngineTiming) -> None:
        """Look at these workers."""
        self.now_s = 0.0
        self.timing = timing
        self.worker_count = len(workers)
        """Workers that may get something new, numbered from 0; those beyond finish what they have."""
        self._workers = workers

    def state(self, worker: int) -> WorkerState:
        """Look at a worker."""
        return self._workers[worker].state(self.now_s)

    def overlap_blocks(self, worker: int, block_names: Sequence[int]) -> int:
        """Count the leading blocks that a worker holds."""
        seen = self._workers[worker]
        seen.settle(self.now_s)
        return seen.cache.overlap_blocks(block_names)

    def decodes(self, worker: int) -> Sequence[Decoding]:
        """List what the decoding sequences of a worker have behind them."""
        return self._workers[worker].decodes(self.now_s)

    def running(self, worker: int) -> Sequence[Running]:
        """List the decoding sequences of a worker."""
        return self._workers[worker].running(self.now_s)


class LateFleet:
    """Workers as they were: counters of the last status, caches as far as events have arrived."""

    def __init__(self, fleet: PresentFleet, workers: Sequence[Worker], event_delay_s: float) -> None:
        """Look at these workers.

        Args:
            fleet: as they are.
            workers: the same; they note from now on what happens to their caches.
            event_delay_s: how long a cache event is on its way, >= 0.
        """
        self.timing = fleet.timing
        self._fleet = fleet
        self._workers = workers
        self._event_delay_s = event_delay_s
        self._states = [fleet.state(worker) for worker in range(len(workers))]
        self._held: list[set[int]] = [set() for _ in workers]
        self._under_way: deque[tuple[float, int, list[tuple[int, bool]]]] = deque()
        for worker in workers:
            worker.cache.keep_journal()

    @property
    def worker_count(self) -> int:
        """Workers that may get something new, numbered from 0."""
        return self._fleet.worker_count

    def note_status(self) -> None:
        """Take a new status of every worker."""
        self._states = [self._fleet.state(worker) for worker in range(len(self._workers))]

    def note_events(self, worker: int) -> None:
        """Send off what happened to a worker's cache since the last call."""
        events = self._workers[worker].cache.take_journal()
        if events:
            self._under_way.append((self._fleet.now_s + self._event_delay_s, worker, events))

    def state(self, worker: int) -> WorkerState:
        """Look at a worker's last status."""
        return self._states[worker]

    def overlap_blocks(self, worker: int, block_names: Sequence[int]) -> int:
        """Count the leading blocks that a worker holds, by the events that have arrived."""
        under_way = self._under_way
        while under_way and under_way[0][0] <= self._fleet.now_s:
            _arrives_s, sender, events = under_way.popleft()
            held = self._held[sender]
            for name, is_stored in events:
                if is_stored:
                    held.add(name)
                else:
                    held.discard(name)
        held = self._held[worker]
        for count, name in enumerate(block_names):
            if name not in held:
                return count
        return len(block_names)

    def decodes(self, worker: int) -> Sequence[Decoding]:
        """Look at the present: a worker decides by itself what its sequences can bear."""
        return self._fleet.decodes(worker)

    def running(self, worker: int) -> Sequence[Running]:
        """Look at the present, as above."""
        return self._fleet.running(worker)
