"""The fluid cluster beside Baton's own placement, request by request: is what planners are judged by true?

    python -m tests.bench.bench_planner_router TRACE --speed 8 --first 2000 --workers 10 12 14 16

The replay (`services.replay`, policy baton) serves the trace with so many workers that all do both phases.
The fluid cluster gets the same requests with the uncached tokens that the router reached there, and every
division of the workers into pools, decode workers helping out with prompts; the best division is shown. Both
columns are shares of all requests within both targets. Not here: planners (`bench_planner`).
"""

import argparse
from pathlib import Path

import numpy as np

from planner.proof.fleet import Capacity
from planner.proof.fluid import FluidCluster
from planner.proof.grading import grade
from planner.proof.load import Load
from planner.proof.trace_loads import request_load
from planner.proof.trace_text import TracedRequests
from planner.proof.work import DEFAULT_ENGINE, Work
from services.domain.slo import Slo
from services.replay.cluster import Cluster
from services.replay.run import ReplaySettings, Report, replay
from services.replay.trace_files import read_trace

TICK_S = 3.0
"""Arrivals of the conversation trace lie on such ticks."""


def replayed(
    trace: Path, slo: Slo, *, speed: float, workers: int, first: int | None
) -> tuple[Report, Cluster]:
    """Serve a trace by Baton's own placement, workers doing both phases."""
    settings = ReplaySettings(
        policy="baton",
        workers=workers,
        speedup=speed,
        spread_s=TICK_S,
        first=first,
        ttft_slo_s=slo.ttft_s,
        itl_slo_s=slo.tpot_s,
    )
    return replay(read_trace(trace), settings)


def routed_load(cluster: Cluster, *, name: str, step_s: float = 1.0) -> Load:
    """Make a load of what a replay served, with the prefixes that its router hit."""
    records = cluster.records
    prompts = np.array([record.prompt_tokens for record in records], dtype=np.float64)
    cached = np.array([record.cached_tokens for record in records], dtype=np.float64)
    requests = TracedRequests(
        at_s=np.array([record.arrival_s for record in records]),
        prompt_tokens=prompts,
        uncached_tokens=np.maximum(prompts - cached, 1.0),
        output_tokens=np.array([record.output_tokens for record in records], dtype=np.float64),
    )
    return request_load(name, requests, speed=1.0, step_s=step_s)


def fluid_frac(load: Load, slo: Slo, *, prefill: int, decode: int) -> float:
    """Tell which share of all requests a fixed fleet serves within both targets."""
    work = Work(load=load, engine=DEFAULT_ENGINE, slo=slo)
    cluster = FluidCluster(work=work)
    for place in range(load.steps):
        cluster.step(place, Capacity(prefill=prefill, decode=decode))
    grades = grade(work, cluster.course, slice(0, load.steps))
    return float(grades.met.sum() / grades.arrivals.sum())


def main() -> None:
    """Print a line per fleet."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    command.add_argument("trace", type=Path, nargs="?")
    command.add_argument("--speed", type=float, default=8.0)
    command.add_argument("--first", type=int, default=2000)
    command.add_argument("--workers", type=int, nargs="+", default=[10, 12, 14, 16])
    command.add_argument("--ttft-s", type=float, default=2.0)
    command.add_argument("--tpot-s", type=float, default=0.025)
    options = command.parse_args()
    if options.trace is None:
        print("no trace given: nothing is compared")
        return
    slo = Slo(ttft_s=options.ttft_s, tpot_s=options.tpot_s)
    print("workers   hit  replay  fluid  best division")
    for workers in options.workers:
        report, cluster = replayed(
            options.trace, slo, speed=options.speed, workers=workers, first=options.first
        )
        load = routed_load(cluster, name="routed")
        best, prefill = max(
            (fluid_frac(load, slo, prefill=count, decode=workers - count), count)
            for count in range(1, workers)
        )
        share = report.goodput_count / report.requests
        print(
            f"{workers:7d}  {report.hit_frac:.2f}  {share:6.3f}  {best:5.3f}  {prefill}+{workers - prefill}",
            flush=True,
        )


if __name__ == "__main__":
    main()
