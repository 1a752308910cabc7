"""The fleet as this router believes it is now.

Comes in: workers' statuses as they arrive, departures, and what this router placed since. Goes out:
one frozen `WorkerView` per worker, grouped by model and phase. Invariant: a view is a function of the
last status and of the placements that it cannot show yet; age is counted by the reader's clock from
arrival, and time in which the bus is away does not count. At most `workers_max` workers are held.
Not here: who is chosen (`services.router.placement`), what caches hold (`services.router.index`).
"""

import hashlib
from dataclasses import dataclass

from services.domain.blocks import blocks_for
from services.domain.ids import WorkerId
from services.domain.performance import PerformanceModel
from services.domain.worker import Lifecycle, Phase, WorkerLimits, WorkerStatus
from services.router.ledger import Burden, Ledger
from services.router.prices import backlog_s
from services.router.settings import RouterSettings

PREFILL_SHARE_WEIGHT = 0.1
"""Weight of the newest status in a worker's share of prefill: about the last ten speak, a few seconds."""
PREFILL_SHARE_MAX = 0.9
"""Share beyond which it tells nothing more: nearly every status shows a prefill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker: its last status with the placements since added.

    Attributes:
        worker_id: who.
        limits: fixed facts of its engine.
        status: as announced.
        ready: whether its lifecycle lets it take new work.
        seen_at_s: when it arrived.
        tie_seed: 64-bit hash of the worker's id.
        speed: equal for workers whose performance and limits are equal.
        sequence_count: sequences accepted, waiting or running.
        running_count: sequences that decode.
        context_tokens: KV tokens of these.
        used_blocks: blocks that cannot be evicted.
        free_blocks: the rest; negative when more was placed than fits.
        backlog_s: until prompts accepted so far are computed.
        step_s: decode step of the running sequences, 0 when idle.
        prefill_share: of its recent statuses, those that show it computing prompts, in [0, 1].
        slowdown: what that makes of the time per token: decoding gets the rest of the time.
    """

    worker_id: WorkerId
    limits: WorkerLimits
    status: WorkerStatus
    ready: bool
    seen_at_s: float
    tie_seed: int
    speed: int
    sequence_count: int
    running_count: int
    context_tokens: int
    used_blocks: int
    free_blocks: int
    backlog_s: float
    step_s: float
    prefill_share: float
    slowdown: float

    @property
    def holds_tokens_max(self) -> int:
        """Most tokens that one sequence can have here: context and KV memory."""
        limits = self.limits
        return min(limits.context_tokens_max, limits.kv_blocks * limits.block_size_tokens)


def hash64(text: str) -> int:
    """Hash text to 64 bits, equally on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def view_worker(
    status: WorkerStatus,
    *,
    seen_at_s: float,
    tie_seed: int,
    speed: int,
    placed: Burden,
    prefill_share: float = 0.0,
) -> WorkerView:
    """Combine a status and what was placed since.

    Args:
        status: as announced.
        seen_at_s: when it arrived.
        tie_seed: hash of the worker's id.
        speed: class of its performance and limits.
        placed: sum of the placements that the status cannot show.
        prefill_share: of its recent statuses, those that show it computing prompts.
    """
    load, limits, performance = status.load, status.limits, status.performance
    running = load.running_count + placed.running_count
    context = load.running_context_tokens + placed.context_tokens
    waiting = load.waiting_count + placed.waiting_count
    used = load.kv_used_blocks + placed.blocks
    step_s = performance.decode_s(sequence_count=running, context_tokens=context)
    return WorkerView(
        worker_id=status.worker_id,
        limits=limits,
        status=status,
        ready=status.lifecycle is Lifecycle.READY,
        seen_at_s=seen_at_s,
        tie_seed=tie_seed,
        speed=speed,
        sequence_count=running + waiting,
        running_count=running,
        context_tokens=context,
        used_blocks=used,
        free_blocks=limits.kv_blocks - used,
        backlog_s=backlog_s(
            performance,
            tokens=load.waiting_prefill_tokens + placed.prefill_tokens,
            prompt_count=waiting,
            step_tokens_max=limits.step_tokens_max,
            decode_step_s=step_s,
        ),
        step_s=step_s,
        prefill_share=prefill_share,
        slowdown=1.0 / (1.0 - min(prefill_share, PREFILL_SHARE_MAX)),
    )


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

    def _ungroup(self, view: WorkerView) -> None:
        for phase in view.status.phases:
            key = (view.status.model, phase)
            del self._groups[key][view.worker_id]
            if not self._groups[key]:
                del self._groups[key]

    def _refresh(self, worker_id: WorkerId) -> None:
        view = self._workers.get(worker_id)
        if view is not None:
            self._put(view.status, view.seen_at_s, view)

    def _speed_of(self, status: WorkerStatus, held: WorkerView | None) -> int:
        if (
            held is not None
            and held.status.limits == status.limits
            and (held.status.performance == status.performance)
        ):
            return held.speed
        if len(self._speeds) > 2 * self._settings.workers_max:
            self._speeds.clear()  # numbers are never given twice, so those in use stay valid
        key = (status.performance, status.limits)
        if key not in self._speeds:
            self._speeds_made_count += 1
            self._speeds[key] = self._speeds_made_count
        return self._speeds[key]


def burden_of_prompt(limits: WorkerLimits, *, prompt_tokens: int, uncached_tokens: int) -> Burden:
    """What a prompt that a worker is to prefill adds to it."""
    return Burden(
        waiting_count=1,
        prefill_tokens=uncached_tokens,
        blocks=blocks_for(prompt_tokens + 1, limits.block_size_tokens),
    )


def burden_of_sequence(limits: WorkerLimits, *, context_tokens: int) -> Burden:
    """What a handed-over sequence adds to a decode worker."""
    return Burden(
        running_count=1,
        context_tokens=context_tokens,
        blocks=blocks_for(context_tokens + 1, limits.block_size_tokens),
    )
