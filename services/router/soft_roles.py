"""How long the steps of soft-roled workers may become before another of them begins to decode.

Comes in: prompts as they are placed, the fleet. Goes out: a limit. Sequences fill one worker up to it after
another (`services.router.decode_placement`), so that as many decode as `roles` finds, the fullest ones: a
role lasts as long as it is needed, and a worker that runs empty is one that prefills. Workers of one phase
are counted in. Invariant: a function of what was folded and of the fleet; routers that see the same fleet
find about the same limit, however few of the prompts each of them places.
Not here: how many (`services.router.roles`), when one of them takes a prompt (`services.prefill.stalling`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.domain.ids import RequestId
from services.domain.placement import Path, PlacementQuery
from services.domain.worker import Phase
from services.router.fleet.fleet_view import FleetView
from services.router.fleet.worker_view import WorkerView
from services.router.learning.wait_record import WaitRecord
from services.router.roles import (
    KV_USE_MAX,
    Decodes,
    Demand,
    DemandRecord,
    decoder_count,
    step_limit_s,
)
from services.router.settings import RouterSettings

PERIOD_S = 0.1
"""Time for which a limit is kept: less than statuses take to show that it should change."""
MODELS_MAX = 256
"""Models remembered; a further one begins with an empty memory."""


@dataclass(slots=True)
class _Model:
    """What is known of one model."""

    record: DemandRecord = field(default_factory=DemandRecord)
    waits: WaitRecord = field(default_factory=WaitRecord)
    wait_s: float | None = None
    """That prompts were expected to have when the limit was found."""
    limit_s: float | None = None
    found_s: float | None = None


class SoftRoles:
    """Limits of all models."""

    def __init__(self, settings: RouterSettings) -> None:
        """Know of no prompt."""
        self._settings = settings
        self._models: dict[str, _Model] = {}
        self._expected: dict[RequestId, tuple[str, float]] = {}
        """Of prompts in the queue: their model, and the wait that was expected when they were placed."""

    def fold(
        self, query: PlacementQuery, path: Path, prefill_s: float, now_s: float, *, shared_s: float
    ) -> None:
        """Take a prompt that was placed.

        Args:
            query: of it.
            path: where it went.
            prefill_s: what its prefill takes.
            now_s: of its arrival.
            shared_s: what it adds to steps that others fill up.
        """
        known = self._known(query.scope.model)
        known.record.fold(prefill_s, now_s, shared_s=shared_s)
        if path is Path.REMOTE and known.wait_s is not None:
            if len(self._expected) >= self._settings.placements_max:
                del self._expected[next(iter(self._expected))]
            self._expected[query.request_id] = (query.scope.model, known.wait_s)

    def fold_wait(self, request_id: RequestId, wait_s: float) -> None:
        """Take how long a prompt waited in the queue; what was expected of another is not held against it."""
        model, expected_s = self._expected.pop(request_id, (None, 0.0))
        if model in self._models:
            self._models[model].waits.expect(expected_s)
            self._models[model].waits.fold(wait_s)

    def forget(self, request_id: RequestId) -> None:
        """Expect nothing of a prompt any more: it ended, or left its way for another."""
        self._expected.pop(request_id, None)

    def step_limit_s(self, model: str, fleet: FleetView, now_s: float) -> float | None:
        """Say how long a step of a model's soft-roled workers may become; None where there are none."""
        if not fleet.lineup(model).sight().has_soft:
            return None
        known = self._known(model)
        if known.found_s is None or now_s - known.found_s >= PERIOD_S:
            known.found_s = now_s
            self._find(model, known, fleet)
        return known.limit_s

    def _find(self, model: str, known: _Model, fleet: FleetView) -> None:
        decoders = [view for view in fleet.serving(model, Phase.DECODE) if view.ready]
        known.limit_s = known.wait_s = None
        if any(Phase.PREFILL in view.status.phases for view in decoders):
            known.limit_s, known.wait_s = limit_of(
                decoders,
                [view for view in fleet.serving(model, Phase.PREFILL) if view.ready],
                known.record.demand(),
                self._settings,
                wait_factor=known.waits.tail_factor,
            )

    def _known(self, model: str) -> _Model:
        if model not in self._models:
            if len(self._models) >= MODELS_MAX:
                self._models.clear()
            self._models[model] = _Model()
        return self._models[model]


def limit_of(
    decoders: Sequence[WorkerView],
    prefillers: Sequence[WorkerView],
    demand: Demand,
    settings: RouterSettings,
    *,
    wait_factor: float = 1.0,
) -> tuple[float, float]:
    """Choose how long a step may become before a sequence goes to an emptier worker.

    Args:
        decoders: workers that take sequences, >= 1.
        prefillers: workers that take prompts; those in both are soft-roled.
        demand: prompts as this router places them. It may be one of several, so that the share of time in
            which workers are seen prefilling counts where it is more.
        settings: targets.
        wait_factor: what a predicted wait is multiplied by.

    Returns:
        The limit, s; the mean wait that prompts are then predicted to have, at most the TTFT target, s.
    """
    soft_count = sum(Phase.PREFILL in view.status.phases for view in decoders)
    fixed_prefillers = len(prefillers) - soft_count
    sequences = 1 + sum(view.running_count for view in decoders)
    tokens = sum(view.context_tokens for view in decoders)
    fits = sum(view.limits.kv_blocks * view.limits.block_size_tokens for view in decoders) / len(decoders)
    most = len(decoders) if fixed_prefillers else max(1, len(decoders) - 1)
    performance = min(decoders, key=lambda view: view.worker_id).status.performance
    decodes = Decodes(performance=performance, sequence_count=sequences, context_tokens=tokens)
    workers = len(decoders) + fixed_prefillers
    demand = replace(demand, load=max(demand.load, sum(view.prefill_share for view in prefillers)))
    wanted = decoder_count(
        workers,
        demand,
        step_s=decodes.step_s,
        ttft_target_s=settings.ttft_target_s,
        tpot_target_s=settings.tpot_target_s,
        least=min(most, max(1, len(decoders) - soft_count, math.ceil(tokens / (fits * KV_USE_MAX)))),
        most=most,
        wait_factor=wait_factor,
    )
    wait_s = min(settings.ttft_target_s, demand.wait_s(max(1, workers - wanted)))
    return step_limit_s(wanted, decodes, tpot_target_s=settings.tpot_target_s), wait_s
