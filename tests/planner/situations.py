"""Observations and settings for planner tests: everything has a default, a test names what it is about."""

from dataclasses import replace

from planner.decision import Decision
from planner.load import Engine, ExpectedLoad, Spread
from planner.observation import Attainment, Backlog, Demand, Observation, PoolState
from planner.planner import Planner
from planner.settings import KindSettings, LimitSettings, PlannerSettings, RoleLimits, TargetSettings
from services.domain.slo import Slo
from services.domain.worker import Phase

RELAXED = Slo(ttft_s=2.0, tpot_s=0.025)
TIGHT = Slo(ttft_s=0.2, tpot_s=0.010)
LOOK_S = 10.0


def engine(kind: KindSettings | None = None) -> Engine:
    """An engine of a kind of worker."""
    kind = kind or KindSettings()
    return Engine(
        performance=kind.model(),
        kv_tokens=kind.kv_tokens,
        sequences_max=kind.sequences_max,
        step_tokens_max=kind.step_tokens_max,
    )


def load(
    requests_per_s: float = 40.0,
    *,
    prompt_tokens: float = 1_155.0,
    output_tokens: float = 211.0,
    spread_frac: float = 0.02,
    dispersion: float = 1.0,
) -> ExpectedLoad:
    """A load of chat requests."""
    return ExpectedLoad(
        requests_per_s=requests_per_s,
        spread=Spread(prefill_frac=spread_frac, decode_frac=spread_frac),
        prompt_tokens=prompt_tokens,
        uncached_tokens=prompt_tokens,
        uncached_square_tokens=2.0 * prompt_tokens * prompt_tokens,
        output_tokens=output_tokens,
        context_tokens=prompt_tokens + output_tokens,
        dispersion=dispersion,
    )


def demand(requests_per_s: float, *, prompt_tokens: float = 1_155.0, output_tokens: float = 211.0) -> Demand:
    """Demand of chat requests."""
    return Demand(
        window_s=LOOK_S,
        requests_per_s=requests_per_s,
        prompt_tokens=prompt_tokens,
        uncached_tokens=prompt_tokens,
        uncached_square_tokens=2.0 * prompt_tokens * prompt_tokens,
        output_tokens=output_tokens,
    )


def pools(
    prefill: int, decode: int, *, kind: str = "default", is_held: bool = False
) -> tuple[PoolState, ...]:
    """Two pools of ready workers."""
    return (
        PoolState(phase=Phase.PREFILL, kind=kind, ready_count=prefill, is_held=is_held),
        PoolState(phase=Phase.DECODE, kind=kind, ready_count=decode, is_held=is_held),
    )


def observation(
    at_s: float,
    requests_per_s: float | None,
    state: tuple[PoolState, ...],
    *,
    age_s: float = 0.0,
    backlog: Backlog | None = None,
    attainment: Attainment | None = None,
) -> Observation:
    """What is seen at one moment; no rate stands for no news of any request."""
    return Observation(
        at_s=at_s,
        age_s=age_s,
        demand=None if requests_per_s is None else demand(requests_per_s),
        backlog=backlog or Backlog(),
        pools=state,
        attainment=attainment or Attainment(),
    )


def settings(
    *,
    slo: Slo = RELAXED,
    start_s: float = 60.0,
    prefill_min: int = 1,
    decode_min: int = 1,
    workers_max: int = 256,
    kinds: tuple[KindSettings, ...] | None = None,
    spills: bool = True,
    **limits: float | bool | None,
) -> PlannerSettings:
    """Settings of a planner; further names are those of `LimitSettings`."""
    return PlannerSettings(
        targets=TargetSettings(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s),
        kinds=kinds or (KindSettings(start_s=start_s),),
        limits=LimitSettings(
            prefill=RoleLimits(workers_min=prefill_min, workers_max=workers_max),
            decode=RoleLimits(workers_min=decode_min, workers_max=workers_max),
            **limits,  # type: ignore[arg-type]  # each test names a field and gives its type
        ),
        look_s=LOOK_S,
        spills=spills,
    )


def counts(decision: Decision) -> dict[tuple[Phase, str], int]:
    """Orders by pool."""
    return {(order.phase, order.kind): order.worker_count for order in decision.orders}


def obeyed(state: tuple[PoolState, ...], decision: Decision) -> tuple[PoolState, ...]:
    """Pools after a decision, starts done at once."""
    known = {(pool.phase, pool.kind): pool for pool in state}
    for key, count in counts(decision).items():
        blank = PoolState(phase=key[0], kind=key[1], ready_count=0)
        known[key] = replace(known.get(key, blank), ready_count=count, starting_s=())
    return tuple(known.values())


def led(planner: Planner, rates: list[float], state: tuple[PoolState, ...], *, at_s: float = 0.0) -> Decision:
    """Lead a planner through rates, one look each, its orders carried out at once; its last decision."""
    decision: Decision | None = None
    for place, rate in enumerate(rates):
        decision = planner.decide(observation(at_s + place * LOOK_S, rate, state))
        state = obeyed(state, decision)
    assert decision is not None
    return decision
