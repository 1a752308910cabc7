"""The fleet as this router believes it is now.

Comes in: workers' statuses as they arrive, departures, and what this router placed since. Goes out:
one frozen `WorkerView` per worker, grouped by model and phase. Invariant: a view is a function of the
last status and of the placements that it cannot show yet; age is counted by the reader's clock from
arrival, and time in which the bus is away does not count. At most `workers_max` workers are held.
Not here: who is chosen (`services.router.placement`), what caches hold (`services.router.prefixes.index`).
"""

from services.domain.ids import WorkerId
from services.domain.performance import PerformanceModel
from services.domain.worker import Phase, WorkerLimits, WorkerStatus
from services.router.fleet.ledger import Burden, Ledger
from services.router.fleet.lineup import Lineup
from services.router.fleet.worker_view import WorkerView, hash64, view_worker
from services.router.settings import RouterSettings

PREFILL_SHARE_WEIGHT = 0.1
"""Weight of the newest status in a worker's share of prefill: about the last ten speak, a few seconds."""


def _prefills(status: WorkerStatus) -> bool:
    """Whether a worker is computing prompts, and not only the last tokens of prompts that it pulled."""
    load = status.load
    return load.waiting_prefill_tokens > load.waiting_count * status.limits.block_size_tokens


class FleetView:
    """All workers known, folded from what arrives."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self._workers: dict[WorkerId, WorkerView] = {}
        self._groups: dict[tuple[str, Phase], dict[WorkerId, WorkerView]] = {}
        self._lineups: dict[str, Lineup] = {}
        self._ledger: Ledger[WorkerId] = Ledger(settings.placements_max)
        self._speeds: dict[tuple[PerformanceModel, WorkerLimits], int] = {}
        self._speeds_made_count = 0
        self._away_since_s: float | None = None
        self.ignored_count = 0
        """Statuses ignored because the view was full."""

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, worker_id: WorkerId) -> WorkerView | None:
        """One worker, or None."""
        return self._workers.get(worker_id)

    def workers(self) -> tuple[WorkerView, ...]:
        """All workers, ordered by id."""
        return tuple(self._workers[w] for w in sorted(self._workers))

    def serving(self, model: str, phase: Phase) -> tuple[WorkerView, ...]:
        """Workers that take work of a phase for a model, whatever their lifecycle."""
        return tuple(self._groups.get((model, phase), {}).values())

    def lineup(self, model: str) -> Lineup:
        """Workers of a model in columns, whatever their lifecycle."""
        known = self._lineups.get(model)
        return Lineup() if known is None else known

    def models(self) -> tuple[str, ...]:
        """Names of the models that some worker serves, ordered."""
        return tuple(sorted({model for model, _ in self._groups}))

    def fold_status(self, status: WorkerStatus, now_s: float) -> bool:
        """Take a status; returns False when it is older than the one held or the view is full."""
        held = self._workers.get(status.worker_id)
        if held is None and len(self._workers) >= self._settings.workers_max:
            self.ignored_count += 1
            return False
        if held is not None and held.status.epoch == status.epoch:
            if status.sequence < held.status.sequence:
                return False
            self._ledger.settle(status.worker_id, now_s - self._settings.placement_settle_s)
        elif held is not None:
            self._ledger.drop(status.worker_id)  # what was placed died with the engine
        share = held.prefill_share if held is not None and held.status.epoch == status.epoch else 0.0
        share += PREFILL_SHARE_WEIGHT * (_prefills(status) - share)
        self._put(status, now_s, held, share)
        return True

    def fold_left(self, worker_id: WorkerId) -> bool:
        """Take a departure; returns False when the worker was not known."""
        self._ledger.drop(worker_id)
        held = self._workers.pop(worker_id, None)
        if held is None:
            return False
        self._ungroup(held)
        return True

    def fold_bus(self, *, connected: bool, now_s: float) -> None:
        """Take news of the bus: while it is away no status can arrive, so none ages."""
        if not connected:
            if self._away_since_s is None:
                self._away_since_s = now_s
        elif self._away_since_s is not None:
            away_s = now_s - self._away_since_s
            self._away_since_s = None
            for view in tuple(self._workers.values()):
                self._put(view.status, min(now_s, view.seen_at_s + away_s), view)

    def fold_placed(self, entry_id: str, worker_id: WorkerId, burden: Burden, now_s: float) -> None:
        """Count a placement until a status shows it, it ends, or the ledger is full."""
        if worker_id in self._workers:
            for touched in (*self._ledger.add(entry_id, worker_id, burden, now_s), worker_id):
                self._refresh(touched)

    def fold_ended(self, entry_id: str) -> None:
        """Forget a placement; unknown ids are ignored."""
        worker_id = self._ledger.end(entry_id)
        if worker_id is not None:
            self._refresh(worker_id)

    def silent(self, now_s: float, *, spared: frozenset[WorkerId]) -> tuple[WorkerId, ...]:
        """Name workers not heard of for `forget_after_s`, but for those spared."""
        oldest_s = self.aged_now_s(now_s) - self._settings.forget_after_s
        return tuple(w for w, view in self._workers.items() if view.seen_at_s < oldest_s and w not in spared)

    def aged_now_s(self, now_s: float) -> float:
        """The moment up to which statuses age: now, or when the bus went away."""
        return now_s if self._away_since_s is None else min(now_s, self._away_since_s)

    def placed_count(self) -> int:
        """Placements counted that no status shows yet."""
        return len(self._ledger)

    def _put(
        self,
        status: WorkerStatus,
        seen_at_s: float,
        held: WorkerView | None,
        prefill_share: float | None = None,
    ) -> None:
        share = prefill_share
        if share is None:
            share = 0.0 if held is None else held.prefill_share
        view = view_worker(
            status,
            seen_at_s=seen_at_s,
            tie_seed=hash64(status.worker_id) if held is None else held.tie_seed,
            speed=self._speed_of(status, held),
            placed=self._ledger.at(status.worker_id),
            prefill_share=share,
        )
        if held is not None and (held.status.model, held.status.phases) != (status.model, status.phases):
            self._ungroup(held)
        self._workers[status.worker_id] = view
        for phase in status.phases:
            self._groups.setdefault((status.model, phase), {})[status.worker_id] = view
        if status.phases:
            lineup = self._lineups.get(status.model)
            if lineup is None:
                lineup = self._lineups[status.model] = Lineup()
            lineup.fold(view)

    def _ungroup(self, view: WorkerView) -> None:
        for phase in view.status.phases:
            key = (view.status.model, phase)
            del self._groups[key][view.worker_id]
            if not self._groups[key]:
                del self._groups[key]
        if view.status.phases:
            lineup = self._lineups[view.status.model]
            lineup.drop(view)
            if not lineup:
                del self._lineups[view.status.model]

    def _refresh(self, worker_id: WorkerId) -> None:
        view = self._workers.get(worker_id)
        if view is not None:
            self._put(view.status, view.seen_at_s, view)

    def _speed_of(self, status: WorkerStatus, held: WorkerView | None) -> int:
        if held is not None:
            known = held.status
            if known is status or (known.limits, known.performance) == (status.limits, status.performance):
                return held.speed
        if len(self._speeds) > 2 * self._settings.workers_max:
            self._speeds.clear()  # numbers are never given twice, so those in use stay valid
        key = (status.performance, status.limits)
        if key not in self._speeds:
            self._speeds_made_count += 1
            self._speeds[key] = self._speeds_made_count
        return self._speeds[key]
