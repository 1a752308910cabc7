"""The router as one object: what arrives is folded in, decisions come out. No I/O, no clock.

Comes in: statuses, departures, KV batches and snapshots, queue readings, ends of requests, queries.
Goes out: placements, and what to fetch next. Invariant: each call's result depends on the calls before
it and on its arguments alone. Not here: feeding it (`services.router.feed`).
"""

from collections.abc import Iterable

from services.domain.blocks import KvEventBatch, KvSnapshot
from services.domain.errors import DeadlineUnmeetable, Rejected, Saturated
from services.domain.ids import EngineEpoch, RequestId, WorkerId
from services.domain.placement import DecodePlacement, DecodeQuery, Path, Placement, PlacementQuery
from services.domain.request import is_batch
from services.domain.task import QueuedTask
from services.domain.worker import WorkerStatus
from services.router.decode_placement import place_decode
from services.router.fleet.fleet_view import FleetView
from services.router.fleet.worker_view import burden_of_prompt, burden_of_sequence
from services.router.learning.misses import Misses
from services.router.learning.output_lengths import OutputLengths
from services.router.learning.pressure import Pressure
from services.router.placement import place
from services.router.prefixes.accuracy import HitRecord, IndexWrong
from services.router.prefixes.coming import ComingPrefixes
from services.router.prefixes.findings import Applied, Folded, GapFound
from services.router.prefixes.index import PrefixIndex
from services.router.pricing.account import AccountedPlacement
from services.router.pricing.queue_load import QueueLoad
from services.router.queue_account import QueueAccount
from services.router.settings import RouterSettings
from services.router.soft_roles import SoftRoles


class Router:
    """Fleet, index and queue, and the two decisions made from them."""

    def __init__(self, settings: RouterSettings) -> None:
        self.settings = settings
        self.fleet = FleetView(settings)
        self.index = PrefixIndex(
            slack_frac=settings.index_slack_frac, batches_waiting_max=settings.index_batches_waiting_max
        )
        self._queue = QueueAccount(settings)
        self._coming = ComingPrefixes()
        self._hits = HitRecord()
        self._pressure = Pressure(settings.burst_s)
        self._roles = SoftRoles(settings)
        self.lengths = OutputLengths()
        """How long outputs become, as far as the owner folds those of its requests."""
        self.misses = Misses(settings.slo, settings.miss_frac)
        """How wrong predictions were, as far as the owner folds what became of its requests."""
        self._linked: frozenset[WorkerId] = frozenset()
        self._departed: set[WorkerId] = set()
        """Gone from the bus and still linked."""
        self._failures: dict[WorkerId, tuple[EngineEpoch, float]] = {}
        """Engines that failed, and when."""
        self._leaving: dict[WorkerId, WorkerStatus] = {}
        """Workers that said that they drain, with the last status before that."""
        self.trimmed_blocks = 0
        """Blocks dropped from the index since its start because a worker claimed more than it can hold."""

    # Folds -------------------------------------------------------------------------------------------

    def fold_status(self, status: WorkerStatus, now_s: float) -> GapFound | None:
        """Take a status; returns what is missing from the worker's index, if something is."""
        self.forget_silent(now_s)
        if not self.fleet.fold_status(status, now_s):
            return None
        self._departed.discard(status.worker_id)
        return self._note(
            self.index.fold_worker(
                status.worker_id,
                epoch=status.epoch,
                kv_blocks=status.limits.kv_blocks,
                kv_sequence=status.kv_sequence,
            )
        )

    def fold_left(self, worker_id: WorkerId) -> None:
        """Take a departure from the bus; a worker that is linked is kept until its link ends too."""
        if worker_id in self._linked:
            self._departed.add(worker_id)
        else:
            self._drop(worker_id)

    def fold_links(self, linked: frozenset[WorkerId]) -> None:
        """Take which workers open links reach: they live, whatever the bus says or forgot of them."""
        self._linked = linked
        for worker_id in sorted(self._departed - linked):
            self._drop(worker_id)

    def fold_failure(self, worker_id: WorkerId, now_s: float) -> None:
        """Take that a worker's engine failed a request: it gets no other for a while."""
        view = self.fleet.get(worker_id)
        if view is not None:
            self._failures[worker_id] = (view.status.epoch, now_s)

    def fold_goodbye(self, worker_id: WorkerId) -> None:
        """Take that a worker said itself that it drains: the bus may tell so much later, or not at all."""
        view = self.fleet.get(worker_id)
        if view is not None:
            self._leaving[worker_id] = view.status

    def leaving(self) -> tuple[WorkerId, ...]:
        """Workers that said goodbye and did not say since that they are ready, ordered."""
        for worker_id, known in tuple(self._leaving.items()):
            view = self.fleet.get(worker_id)
            if view is None or (view.ready and view.status != known):
                del self._leaving[worker_id]
        return tuple(sorted(self._leaving))

    def quarantined(self, now_s: float) -> tuple[WorkerId, ...]:
        """Workers whose engine failed of late and was not replaced since, ordered."""
        for worker_id, (epoch, failed_s) in tuple(self._failures.items()):
            view = self.fleet.get(worker_id)
            over = now_s - failed_s >= self.settings.quarantine_s
            if view is None or view.status.epoch != epoch or over:
                del self._failures[worker_id]
        return tuple(sorted(self._failures))

    def forget_silent(self, now_s: float) -> tuple[WorkerId, ...]:
        """Drop workers not heard of for too long and not linked; returns who."""
        gone = self.fleet.silent(now_s, spared=self._linked)
        for worker_id in gone:
            self._drop(worker_id)
        return gone

    def fold_kv(self, batch: KvEventBatch) -> GapFound | None:
        """Take KV events; returns what is missing, once per gap."""
        return self._note(self.index.fold(batch))

    def fold_snapshot(self, snapshot: KvSnapshot) -> GapFound | None:
        """Take a snapshot; returns what is still missing, if something is."""
        return self._note(self.index.fold_snapshot(snapshot))

    def fold_queue(self, tasks: Iterable[QueuedTask], now_s: float) -> None:
        """Take everything that is in the prefill queue now."""
        tasks = tuple(tasks)
        self._coming.fold(tasks)
        claims = self._queue.fold(tasks, self._block_size_tokens, now_s)
        for claim_id in claims.ended:
            self.fleet.fold_ended(claim_id)
        for work in claims.begun:
            view = self.fleet.get(work.worker_id)
            if view is not None:
                burden = burden_of_prompt(
                    view.limits, prompt_tokens=work.prompt_tokens, uncached_tokens=work.uncached_tokens
                )
                self.fleet.fold_placed(work.claim_id, work.worker_id, burden, now_s)

    def fold_bus(self, *, connected: bool, now_s: float) -> None:
        """Take whether the bus answers; while it does not, nothing ages and nothing can be queued."""
        self._queue.reachable = connected
        self.fleet.fold_bus(connected=connected, now_s=now_s)

    def fold_ended(self, request_id: RequestId) -> None:
        """Forget a request's placement because it ended; unknown ids are ignored."""
        self._queue.forget(request_id)
        self._roles.forget(request_id)
        self.fleet.fold_ended(request_id)

    def fold_hit(self, worker_id: WorkerId, *, promised_blocks: int, reused_tokens: int) -> IndexWrong | None:
        """Compare what the index promised with what the engine that computed the prompt reused.

        Returns:
            An alarm when they disagreed too often; the worker's index is then dropped, and
            `awaiting_snapshot` names it.
        """
        size = self._block_size_tokens(worker_id)
        if size is None:
            return None
        wrong = self._hits.fold(
            worker_id, promised_tokens=promised_blocks * size, reused_tokens=reused_tokens
        )
        if wrong is not None:
            self.index.distrust(worker_id)
        return wrong

    def awaiting_snapshot(self) -> tuple[WorkerId, ...]:
        """Workers whose snapshot is to be fetched and folded, ordered."""
        return self.index.awaiting()

    # Decisions ---------------------------------------------------------------------------------------

    def place(self, query: PlacementQuery, now_s: float) -> Placement | Rejected:
        """Decide where a prompt is prefilled, and remember it as load."""
        overlaps = self.index.overlaps(query.block_hashes)
        coming = self._coming.lengthen(overlaps, query.block_hashes)
        outcome = place(
            query,
            fleet=self.fleet,
            overlaps=overlaps,
            coming=coming,
            queue=self.queue_load(query.scope.model, query.priority),
            settings=self.settings,
            now_s=now_s,
            overload=self._pressure.overload(query.scope.model, now_s),
        )
        if not is_batch(query.priority) and self._is_late(query, outcome):
            self._pressure.fold(query.scope.model, now_s)
        if isinstance(outcome, AccountedPlacement):
            self._remember(query, outcome, now_s)
            if query.begun:
                self._roles.forget(query.request_id)
            else:
                shared_s = self._shared_s(query, outcome)
                self._roles.fold(query, outcome.path, outcome.prefill_s, now_s, shared_s=shared_s)
        return outcome

    def _is_late(self, query: PlacementQuery, outcome: AccountedPlacement | Rejected) -> bool:
        """Whether more is ahead of a request than its target allows."""
        match outcome:
            case AccountedPlacement(wait_s=wait_s):
                return query.waited_s + wait_s > self.settings.ttft_target_s
            case Saturated():
                return True
            case DeadlineUnmeetable(retry_after_s=retry_after_s):
                return retry_after_s is not None
            case _:
                return False

    def place_decode(self, query: DecodeQuery, now_s: float) -> DecodePlacement | Rejected:
        """Decide who continues a handed-over prompt, and remember it as load."""
        if query.waited_s is not None:
            self._roles.fold_wait(query.request_id, query.waited_s)
        claim = None if query.task_id is None else self._queue.claim_of(query.task_id)
        if claim is not None:
            self.fleet.fold_ended(claim.claim_id)  # whoever computed it is free of it
        outcome = place_decode(
            query,
            fleet=self.fleet,
            settings=self.settings,
            now_s=now_s,
            step_limit_s=self.step_limit_s(query.scope.model, now_s),
        )
        view = self.fleet.get(outcome.worker_id) if isinstance(outcome, DecodePlacement) else None
        if view is not None:
            self._queue.forget(query.request_id)
            burden = burden_of_sequence(view.limits, context_tokens=query.context_tokens)
            self.fleet.fold_placed(query.request_id, view.worker_id, burden, now_s)
        return outcome

    def step_limit_s(self, model: str, now_s: float) -> float | None:
        """Say up to which step soft-roled workers of a model are filled; None where there are none."""
        return self._roles.step_limit_s(model, self.fleet, now_s)

    def queue_load(self, model: str, priority: int = 0) -> QueueLoad:
        """What waits for any prefill worker of a model and goes before a task of this priority."""
        return self._queue.load(model, priority)

    # Inside ------------------------------------------------------------------------------------------

    def _drop(self, worker_id: WorkerId) -> None:
        self._departed.discard(worker_id)
        self.fleet.fold_left(worker_id)
        self.index.forget(worker_id)
        self._hits.forget(worker_id)

    def _remember(self, query: PlacementQuery, placed: Placement, now_s: float) -> None:
        view = self.fleet.get(placed.worker_id)
        if view is None:
            return
        cached = placed.overlap_blocks * view.limits.block_size_tokens
        uncached = max(1, query.prompt_tokens - cached)
        if placed.path is Path.LOCAL:
            self._queue.forget(query.request_id)
            burden = burden_of_prompt(
                view.limits, prompt_tokens=query.prompt_tokens, uncached_tokens=uncached
            )
            self.fleet.fold_placed(query.request_id, placed.worker_id, burden, now_s)
        else:
            self.fleet.fold_ended(query.request_id)
            self._queue.send(query, placed.worker_id, uncached, now_s)

    def _shared_s(self, query: PlacementQuery, placed: AccountedPlacement) -> float:
        """Say what a placed prompt adds to steps that others fill up."""
        view = self.fleet.get(placed.worker_id)
        if view is None:
            return placed.prefill_s
        return view.status.performance.shared_s(
            prompt_tokens=query.prompt_tokens,
            cached_tokens=placed.overlap_blocks * view.limits.block_size_tokens,
            step_tokens_max=view.limits.step_tokens_max,
        )

    def _note(self, folded: Folded) -> GapFound | None:
        if isinstance(folded, GapFound):
            return folded
        if isinstance(folded, Applied):
            self.trimmed_blocks += folded.trimmed_blocks
        return None

    def _block_size_tokens(self, worker_id: WorkerId) -> int | None:
        view = self.fleet.get(worker_id)
        return None if view is None else view.limits.block_size_tokens
