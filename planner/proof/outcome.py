"""What a run is worth: GPU-hours beside the bound, attainment, its worst minutes, restlessness, recovery.

Comes in: a run and the bound of its load. Goes out: numbers of the counted part. Invariant: a pure function.
Not here: tables and figures (`table`, `figure`).
"""

import msgspec
import numpy as np

from planner.proof.bound import Bound
from planner.proof.load import Floats
from planner.proof.simulation import Run

WORST_S = 300.0
"""Attainment of the worst so long is told."""
RECOVERED_FRAC = 0.99
RECOVERED_S = 30.0
"""A burst is over once so many of the requests of so long meet their targets."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One scaler on one load."""

    scaler: str
    values: str
    """What it is tuned to; empty: nothing."""
    load: str
    ttft_slo_s: float
    tpot_slo_s: float
    startup_s: float
    gpu_h: float
    """From creation to deletion."""
    bound_gpu_h: float
    ratio: float
    """Of the two."""
    attained_frac: float
    """Requests within both targets, of those that an idle cluster would have served so."""
    worst_frac: float
    """The same, of the worst 5 minutes."""
    possible_frac: float
    """Requests that an idle cluster would have served within both targets."""
    flips_per_h: float
    scale_events_per_h: float
    """Decisions that started or removed workers."""
    workers_moved_per_h: float
    """Workers started and removed."""
    recovery_s: float | None
    """From the begin of the burst until targets are met again; None: no burst, or never."""
    lost_count: float | None
    """Requests late in the ten minutes from the begin of the burst."""
    reasons: tuple[str, ...]
    """Of the last decision."""


def outcome(run: Run, bound: Bound, *, scaler: str, values: str, startup_s: float) -> Outcome:
    """Tell what a run is worth.

    Args:
        run: to be judged.
        bound: of the same load and start-up.
        scaler: its name.
        values: that it is tuned to.
        startup_s: of a worker.
    """
    load, slo = run.work.load, run.work.slo
    part = load.counted
    judged, met = run.grades.judged[part], run.grades.met[part]
    hours = judged.size * load.step_s / 3600
    gpu_s = float(run.paid[part].sum()) * load.step_s
    before = run.counts[max(part.start - 1, 0)]
    flips, started, removed, actions = (run.counts[-1] - before).tolist()
    recovery_s, lost = _burst(run)
    return Outcome(
        scaler=scaler,
        values=values,
        load=load.name,
        ttft_slo_s=slo.ttft_s,
        tpot_slo_s=slo.tpot_s,
        startup_s=startup_s,
        gpu_h=gpu_s / 3600,
        bound_gpu_h=bound.gpu_s / 3600,
        ratio=gpu_s / bound.gpu_s if bound.gpu_s > 0 else float("inf"),
        attained_frac=_share(met.sum(), judged.sum()),
        worst_frac=float(rolling_frac(met, judged, max(1, round(WORST_S / load.step_s))).min()),
        possible_frac=_share(run.grades.possible[part].sum(), run.grades.arrivals[part].sum()),
        flips_per_h=flips / hours,
        scale_events_per_h=actions / hours,
        workers_moved_per_h=(started + removed) / hours,
        recovery_s=recovery_s,
        lost_count=lost,
        reasons=run.reasons,
    )


def rolling_frac(met: Floats, judged: Floats, steps: int) -> Floats:
    """Compute the share met in every window of so many steps; 1 where there was no request."""
    steps = min(steps, met.size)
    ones = np.ones(steps)
    tops, bottoms = np.convolve(met, ones, mode="valid"), np.convolve(judged, ones, mode="valid")
    return np.where(bottoms > 1e-9, tops / np.maximum(bottoms, 1e-9), 1.0)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 1.0


def _burst(run: Run) -> tuple[float | None, float | None]:
    load = run.work.load
    if load.burst_s is None:
        return None, None
    begin = round(load.burst_s / load.step_s)
    met, judged = run.grades.met[begin:], run.grades.judged[begin:]
    window = max(1, round(RECOVERED_S / load.step_s))
    is_good = rolling_frac(met, judged, window) >= RECOVERED_FRAC
    ten = slice(0, round(600.0 / load.step_s))
    bad = np.flatnonzero(~is_good[ten])
    lost = float((judged[ten] - met[ten]).sum())
    if not bad.size:
        return 0.0, lost
    good = np.flatnonzero(is_good[bad[0] :])
    return (float(bad[0] + good[0]) * load.step_s if good.size else None), lost
