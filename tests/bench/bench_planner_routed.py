"""The planner in the loop with Baton's own placement, request by request.

    python -m tests.bench.bench_planner_routed TRACE --speed 8 --startups 30 120

The replay (`services.replay`, policy baton) serves the trace with workers that all do both phases. The
planner looks every ten seconds and sees what it would see of a live cluster: a gateway's page of metrics,
read as its observer reads it, the work that waits, the workers. These are paid from their order until they
have finished. Twenty quiet minutes before the trace run on the fluid cluster. Attainment is told of those
requests that an idle worker would have served in time. A worker that comes back has the cache that it left
with. Not here: other scalers (`bench_planner`).
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from planner.observation import Attainment, Backlog, Observation
from planner.observers.counting import attainment, demand
from planner.observers.exposition import Reading, grown, read
from planner.planner import Planner
from planner.proof.bound import clairvoyant_bound
from planner.proof.fleet import Fleet
from planner.proof.load import Load, led_in
from planner.proof.simulation import FINISH_MAX_S, LIVES_TO_DRAIN, run_scaler
from planner.proof.trace_loads import request_load
from planner.proof.trace_text import TracedRequests, parse_trace
from planner.proof.work import DEFAULT_ENGINE, Work
from planner.settings import KindSettings, PlannerSettings, TargetSettings
from services.domain.slo import Slo
from services.domain.worker import Phase
from services.replay.cluster import Cluster
from services.replay.policies import policy_maker
from services.replay.policies.options import PolicyOptions
from services.replay.presets import DEFAULT_TIMING, EngineTiming, timing_named
from services.replay.records import Record
from services.replay.retiming import first, speed_up, spread
from services.replay.trace_files import read_trace
from services.runtime.metrics import Meters
from services.runtime.metrics_page import parse_page
from tests.bench.bench_planner_router import TICK_S, routed_load
from tests.bench.planner_loads import LEAD_S, LIKE_S, shortened

WORKERS_MAX = 64
"""Workers that the replay has in store."""


@dataclass(slots=True, kw_only=True)
class Judged:
    """Requests that ended so far."""

    timing: EngineTiming
    slo: Slo
    possible: int = 0
    met: int = 0
    refused: int = 0
    life_s: float = 1.0
    """Of the last sequence that ended: from its prompt to its last token."""
    meters: Meters = field(default_factory=Meters)

    def end(self, record: Record, times_s: list[float]) -> None:
        """Count a request, as a gateway would and as a judge does."""
        ttft_s = times_s[0] - record.arrival_s
        tpot_s = (times_s[-1] - times_s[0]) / max(1, len(times_s) - 1)
        own_s = self.timing.performance.prompt_s(
            prompt_tokens=record.prompt_tokens,
            cached_tokens=record.cached_tokens,
            step_tokens_max=self.timing.step_tokens_max,
        )
        self.life_s = max(0.1, times_s[-1] - record.prefilled_s)
        self.meters.observe("baton_prompt_length_tokens", record.prompt_tokens)
        self.meters.count("baton_prompt_tokens_total", record.prompt_tokens)
        self.meters.count("baton_cached_tokens_total", record.cached_tokens)
        self.meters.count("baton_output_tokens_total", record.output_tokens)
        if own_s <= self.slo.ttft_s:
            self.possible += 1
            self.met += ttft_s <= self.slo.ttft_s and tpot_s <= self.slo.tpot_s
        self.meters.observe("baton_ttft_seconds", ttft_s)
        self.meters.observe("baton_ttft_alone_seconds", min(ttft_s, own_s))
        if record.output_tokens > 1:
            self.meters.observe("baton_tpot_seconds", tpot_s)


class Loop:
    """A planner and a replayed cluster."""

    def __init__(self, planner: Planner, fleet: Fleet, slo: Slo, timing: EngineTiming, look_s: float) -> None:
        """Begin with the fleet as it is; the planner's clock is `LEAD_S` ahead of the replay's."""
        self.paid_s = 0.0
        self.judged = Judged(timing=timing, slo=slo)
        self.actions_count = self.most_count = 0
        self._planner = planner
        self._fleet = fleet
        self._slo = slo
        self._look_s = self._next_s = look_s
        self._before: Reading | None = None
        self._open: set[int] = set()
        self._known = 0
        self._paid_to_s = 0.0

    def step(self, cluster: Cluster) -> None:
        """Let time pass up to an arrival, and look if it is time."""
        now_s = cluster.now_s
        self._pay(now_s)
        self._fleet.advance(now_s + LEAD_S)
        if now_s >= self._next_s:
            self._next_s = now_s + self._look_s
            self._look(cluster)
        self._resize(cluster)

    def end(self, cluster: Cluster) -> None:
        """Count what is left."""
        self._read(cluster)

    def _pay(self, now_s: float) -> None:
        self.paid_s += self._fleet.paid_count * (now_s - self._paid_to_s)
        self._paid_to_s = now_s

    def _resize(self, cluster: Cluster) -> None:
        turning = sum(worker.becomes is not None for worker in self._fleet.leaving)
        count = max(1, self._fleet.ready.total() + turning)
        self.most_count = max(self.most_count, count)
        cluster.resize(count)

    def _look(self, cluster: Cluster) -> None:
        now_s = cluster.now_s + LEAD_S
        self._read(cluster)
        reading = read(parse_page(self.judged.meters.render().decode()), now_s)
        growth = None if self._before is None else grown(self._before, reading)
        self._before = reading
        told = Attainment()
        if growth is not None:
            told = attainment(growth, self._slo, prefill_pace=1.0, decode_pace=1.0)
        observation = Observation(
            at_s=now_s,
            age_s=0.0,
            demand=None if growth is None else demand(growth),
            backlog=self._backlog(cluster),
            pools=self._fleet.pools(now_s),
            attainment=told,
        )
        finish_s = {Phase.PREFILL: 0.0, Phase.DECODE: min(LIVES_TO_DRAIN * self.judged.life_s, FINISH_MAX_S)}
        self._fleet.obey(self._planner.decide(observation), now_s, finish_s)

    def _read(self, cluster: Cluster) -> None:
        new = cluster.arrived_count - self._known
        self._open |= set(range(self._known, cluster.arrived_count))
        self._known += new
        if new:
            self.judged.meters.count("baton_requests_accepted_total", new)
        ends = [worker.step_ends_s for worker in cluster.workers]
        for index in sorted(self._open):
            record = cluster.records[index]
            if record.refused is not None:
                self.judged.refused += 1
            elif record.ended_s is not None:
                self.judged.end(record, record.token_times_s(ends).tolist())
            else:
                continue
            self._open.discard(index)

    def _backlog(self, cluster: Cluster) -> Backlog:
        states = [worker.state(cluster.now_s) for worker in cluster.workers]
        waiting = [i for i in self._open if cluster.records[i].prefilled_s == 0.0]
        return Backlog(
            waiting_count=len(waiting),
            waiting_tokens=sum(cluster.records[index].prompt_tokens for index in waiting),
            running_count=sum(state.decode_count for state in states),
            running_context_tokens=sum(state.decode_context_tokens for state in states),
        )


def led_planner(settings: PlannerSettings, load: Load, slo: Slo) -> tuple[Planner, Fleet]:
    """Let a planner find its footing in a quiet time on the fluid cluster; its fleet then."""
    quiet = shortened(led_in(load, lead_s=LEAD_S, like_s=LIKE_S, seed=2), 0.0)
    planner, startup_s = Planner(settings), settings.kinds[0].start_s
    run = run_scaler(planner, Work(load=quiet, engine=DEFAULT_ENGINE, slo=slo), startup_s=startup_s)
    fleet = Fleet(startup_s=startup_s)
    fleet.ready[Phase.PREFILL] = round(float(run.prefill[-1]))
    fleet.ready[Phase.DECODE] = round(float(run.decode[-1]))
    return planner, fleet


def main() -> None:
    """Print a line per start-up time."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    command.add_argument("trace", type=Path, nargs="?")
    command.add_argument("--speed", type=float, default=8.0)
    command.add_argument("--first", type=int, help="only so many requests; default: all")
    command.add_argument("--startups", type=float, nargs="+", default=[30.0, 120.0])
    command.add_argument("--ttft-s", type=float, default=2.0)
    command.add_argument("--tpot-s", type=float, default=0.025)
    options = command.parse_args()
    if options.trace is None:
        print("no trace given: nothing is planned")
        return
    slo, timing = Slo(ttft_s=options.ttft_s, tpot_s=options.tpot_s), timing_named(DEFAULT_TIMING)
    trace = read_trace(options.trace)
    if options.first is not None:
        trace = first(trace, options.first)
    trace = speed_up(spread(trace, TICK_S), options.speed)
    make = policy_maker("baton")
    wanted = PolicyOptions(ttft_slo_s=slo.ttft_s, itl_slo_s=slo.tpot_s)
    requests = parse_trace(options.trace.read_text(encoding="utf-8"))
    assert isinstance(requests, TracedRequests)
    load = request_load("led in", requests, speed=options.speed, step_s=1.0)
    print("start-up, s  GPU-h  x bound  in time, of possible  most workers  scalings", flush=True)
    for startup_s in options.startups:
        cluster = Cluster(
            trace,
            timing,
            worker_count=WORKERS_MAX,
            policy=lambda fleet: make(fleet, wanted),
            itl_slo_s=slo.tpot_s,
        )
        settings = PlannerSettings(
            targets=TargetSettings(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s),
            kinds=(KindSettings(start_s=startup_s),),
        )
        planner, fleet = led_planner(settings, load, slo)
        loop = Loop(planner, fleet, slo, timing, settings.look_s)
        cluster.resize(fleet.ready.total())
        cluster.run(loop.step, every=1)
        loop.end(cluster)
        work = Work(load=routed_load(cluster, name="routed"), engine=DEFAULT_ENGINE, slo=slo)
        bound_s = clairvoyant_bound(work, startup_s=startup_s).gpu_s
        judged = loop.judged
        print(
            f"{startup_s:11.0f}  {loop.paid_s / 3600:5.2f}  {loop.paid_s / bound_s:7.3f}  "
            f"{judged.met / max(1, judged.possible + judged.refused):20.4f}  {loop.most_count:12d}  "
            f"{fleet.actions_count:8d}",
            flush=True,
        )


if __name__ == "__main__":
    main()
