"""Decisions in words.

Comes in: what was decided and from what. Goes out: sentences for people who are woken at night.
Invariant: every number has its unit; the first sentence says what changes. Not here: the decision.
"""

from collections.abc import Sequence

from planner.arranging.arranger import Arrangement
from planner.forecasting.ensemble import Forecast
from planner.observation import PoolState
from planner.settings import TargetSettings
from planner.sizing.needs import Needs, Sizing


def headline(pools: Sequence[PoolState], found: Arrangement) -> str:
    """Say what changes."""
    before = {(pool.phase, pool.kind): pool.ordered_count for pool in pools}
    parts = []
    for order in found.orders:
        had = before.get((order.phase, order.kind), 0)
        change = str(had) if had == order.worker_count else f"{had} → {order.worker_count}"
        parts.append(f"{order.phase.value} {change}")
    flips = [f"{flip.worker_count} from {flip.source.value} to the other role" for flip in found.flips]
    if not flips and not found.started_count and not found.stopped_count:
        return f"no change: {', '.join(parts)}"
    said = [*(f"turn {text}" for text in flips)]
    if found.started_count:
        said.append(f"start {found.started_count}")
    if found.stopped_count:
        said.append(f"drain and stop {found.stopped_count}")
    return f"{', '.join(said)}: {', '.join(parts)}"


def why(
    *,
    now: Forecast,
    later: Forecast,
    horizon_s: float,
    needs: Needs,
    sizing: Sizing,
    allowed: float,
    targets: TargetSettings,
) -> list[str]:
    """Say what the needs rest on."""
    rate = later.requests_per_s
    demand = (
        f"{now.requests_per_s:.3g} requests/s now, {rate:.3g} expected in {horizon_s:.0f} s, "
        f"its work known to ± {later.spread.prefill_frac:.1%} (prefill) and ± "
        f"{later.spread.decode_frac:.1%} (decode)"
    )
    work = (
        f"that is work for {rate / sizing.prefill_rate():.2f} prefill and {rate / sizing.decode_rate():.2f} "
        f"decode workers at their best pace within {targets.ttft_s:g} s and {targets.tpot_s * 1e3:g} ms; "
        f"{needs.prefill} + {needs.decode} keep all but {needs.late_frac:.2%} of the requests in time, "
        f"{allowed:.2%} may be late now"
    )
    return [demand, work, *sizing.unreachable]
