"""Which soft-roled workers decode, the others being left free to prefill.

Comes in: prompts as they are placed, the fleet. Goes out: the workers to leave free. Of those that can do
both as many decode as `roles` finds: the fullest ones, so that a role goes on as long as it is needed and a
worker that runs empty becomes one that prefills. Workers of one phase keep it and are counted in.
Invariant: a function of what was folded and of the fleet; somebody can always decode; routers that see the
same fleet leave the same workers free, however few of the prompts each of them places.
Not here: how many (`services.router.roles`), when one that decodes takes a prompt (`services.domain.stalls`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.domain.ids import WorkerId
from services.domain.worker import Phase
from services.router.fleet import FleetView
from services.router.roles import Demand, DemandRecord, decoder_count
from services.router.settings import RouterSettings
from services.router.worker_view import WorkerView

PERIOD_S = 0.1
"""Time for which roles are kept: less than statuses take to show that they should change."""
KV_USE_MAX = 0.9
"""Share of the KV memory of workers that decode which sequences may fill; the rest is for what they write."""
MODELS_MAX = 256
"""Models remembered; a further one begins with an empty memory."""


@dataclass(slots=True)
class _Model:
    """What is known of one model."""

    record: DemandRecord
    kept_free: frozenset[WorkerId] = frozenset()
    found_s: float | None = None


class SoftRoles:
    """Roles of all models."""

    def __init__(self, settings: RouterSettings) -> None:
        """Know of no prompt."""
        self._settings = settings
        self._models: dict[str, _Model] = {}

    def fold(self, model: str, prefill_s: float, now_s: float) -> None:
        """Take a prompt that was placed.

        Args:
            model: whose.
            prefill_s: what its prefill takes.
            now_s: of its arrival.
        """
        self._known(model).record.fold(prefill_s, now_s)

    def kept_free(self, model: str, fleet: FleetView, now_s: float) -> frozenset[WorkerId]:
        """Name the workers of a model that are to decode only when nobody else can."""
        decoders = [view for view in fleet.serving(model, Phase.DECODE) if view.ready]
        if not any(Phase.PREFILL in view.status.phases for view in decoders):
            return frozenset()
        known = self._known(model)
        if known.found_s is None or now_s - known.found_s >= PERIOD_S:
            prefillers = [view for view in fleet.serving(model, Phase.PREFILL) if view.ready]
            known.kept_free = keep_free(decoders, prefillers, known.record.demand(), self._settings)
            known.found_s = now_s
        return known.kept_free

    def _known(self, model: str) -> _Model:
        if model not in self._models:
            if len(self._models) >= MODELS_MAX:
                self._models.clear()
            self._models[model] = _Model(DemandRecord())
        return self._models[model]


def keep_free(
    decoders: Sequence[WorkerView], prefillers: Sequence[WorkerView], demand: Demand, settings: RouterSettings
) -> frozenset[WorkerId]:
    """Choose the soft-roled workers that are left to prefill.

    Args:
        decoders: workers that take sequences, >= 1.
        prefillers: workers that take prompts; those in both are soft-roled.
        demand: prompts as this router places them. It may be one of several, so that the share of time in
            which workers are seen prefilling counts where it is more.
        settings: targets.
    """
    soft = [view for view in decoders if Phase.PREFILL in view.status.phases]
    fixed_decoders = len(decoders) - len(soft)
    fixed_prefillers = len(prefillers) - len(soft)
    sequences = 1 + sum(view.running_count for view in decoders)
    tokens = sum(view.context_tokens for view in decoders)
    fits = sum(view.limits.kv_blocks * view.limits.block_size_tokens for view in decoders) / len(decoders)
    most = len(decoders) if fixed_prefillers else max(1, len(decoders) - 1)
    least = min(most, max(1, fixed_decoders, math.ceil(tokens / (fits * KV_USE_MAX))))
    performance = min(soft, key=lambda view: view.worker_id).status.performance
    seen = sum(view.prefill_share for view in prefillers)
    wanted = decoder_count(
        len(decoders) + fixed_prefillers,
        replace(demand, load=max(demand.load, seen)),
        step_s=lambda count: performance.decode_s(
            sequence_count=-(-sequences // count), context_tokens=tokens // count
        ),
        ttft_target_s=settings.ttft_target_s,
        tpot_target_s=settings.tpot_target_s,
        least=least,
        most=most,
    )
    fullest = sorted(soft, key=lambda v: (-v.context_tokens, -v.running_count, v.tie_seed, v.worker_id))
    return frozenset(view.worker_id for view in fullest[wanted - fixed_decoders :])
