"""What one worker carries within the targets, for the requests that are observed.

Comes in: a demand, an engine, targets. Goes out: seconds and sequences per worker. The autoscalers of others
get these from a profile of the same engine; here they come from the one performance model, without error.
Not here: queueing, which none of them looks at.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from planner.decision import Decision, PoolOrder
from planner.load import Engine
from planner.observation import Demand, Observation
from services.domain.performance import PrefillChunk
from services.domain.slo import Slo
from services.domain.worker import Phase

PAIR = (Phase.PREFILL, Phase.DECODE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """One worker of each role.

    Attributes:
        own_s: prefill of a mean prompt alone.
        packed_s: prefill of a mean prompt in full steps.
        batch: sequences that decode within the TPOT target.
        decode_s: one decode step of that batch.
    """

    own_s: float
    packed_s: float
    batch: float
    decode_s: float


def pace(demand: Demand, engine: Engine, slo: Slo) -> Pace:
    """Tell what a worker carries of such requests."""
    model = engine.performance
    uncached = max(1, round(demand.uncached_tokens))
    context = max(1.0, demand.prompt_tokens + demand.output_tokens)
    cached = max(0, round(demand.prompt_tokens) - uncached)
    chunk_s = model.chunk_s(PrefillChunk(new_tokens=uncached, context_tokens=cached))
    each_s = model.decode_sequence_s + model.decode_context_token_s * context
    batch = max(
        1.0,
        min(engine.sequences_max, engine.kv_tokens / context, (slo.tpot_s - model.decode_step_s) / each_s),
    )
    return Pace(
        own_s=model.prefill_step_s * math.ceil(uncached / engine.step_tokens_max) + chunk_s,
        packed_s=model.prefill_step_s * uncached / engine.step_tokens_max + chunk_s,
        batch=batch,
        decode_s=model.decode_step_s + each_s * batch,
    )


def sized(observation: Observation, wanted: dict[Phase, int], *, look_s: float, reason: str) -> Decision:
    """Order so many workers of each role, at least one; a role that is not named keeps what it has."""
    orders = [
        PoolOrder(
            phase=pool.phase,
            kind=pool.kind,
            worker_count=max(1, wanted.get(pool.phase, pool.ordered_count)),
        )
        for pool in observation.pools
    ]
    return Decision(orders=tuple(orders), reasons=(reason,), look_s=look_s)


@dataclass(slots=True)
class HighestOfLate:
    """Keeps what was recommended lately, so that a pool shrinks only to the most of that.

    Attributes:
        window_s: how long a recommendation counts.
    """

    window_s: float
    _kept: dict[Phase, deque[tuple[float, int]]] = field(
        default_factory=lambda: {phase: deque() for phase in PAIR}
    )

    def fold(self, phase: Phase, count: int, at_s: float) -> int:
        """Take a recommendation, and tell the highest that counts."""
        kept = self._kept[phase]
        while kept and kept[-1][1] <= count:
            kept.pop()
        kept.append((at_s, count))
        while kept[0][0] < at_s - self.window_s:
            kept.popleft()
        return kept[0][1]
