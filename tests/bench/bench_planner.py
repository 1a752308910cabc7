"""Baton's planner beside others' autoscalers and the clairvoyant bound, on recorded and made loads.

    make bench-planner ARGS="--traces DIR --days 0.5 --json rows.json --figures DIR"

Every row is one scaler on the fluid cluster (`planner.proof`): GPU-hours over the bound's, the share of
requests within both targets, the worst five minutes, flips and scalings per hour, recovery from a burst.
Baton's planner has one configuration but for targets and start-up time. Each of the others is tuned on all
loads but the one it is judged on: the values by which most of those reach 99 %, and of them the cheapest.
Without --traces only the made loads run. At the end stand the tables of all that ran; who is at work is told
beside them. Ctrl-C ends it with the tables and rows of what is finished.
Not here: the cluster request by request (`baton replay`).
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from planner.decision import Scaler
from planner.planner import Planner
from planner.proof.baselines.tuning import BASELINES
from planner.proof.bound import Bound, clairvoyant_bound
from planner.proof.figure import Course, fleets, pareto
from planner.proof.foresight import foreseen_fleet
from planner.proof.load import Load
from planner.proof.outcome import Outcome, outcome
from planner.proof.replaying import PLANNER
from planner.proof.simulation import Run, run_scaler
from planner.proof.table import HEADER, rows, table, title
from planner.proof.work import DEFAULT_ENGINE, Work
from planner.settings import KindSettings, PlannerSettings, TargetSettings
from services.domain.slo import Slo
from tests.bench.bench_planner_router import replayed, routed_load
from tests.bench.planner_loads import MOONCAKE, RECORDED, led, loads, shortened
from tests.bench.planner_rows import GOAL_FRAC, Saved, chosen
from tests.bench.planner_summary import summary

SLOS = {"chat": Slo(ttft_s=2.0, tpot_s=0.025), "quick": Slo(ttft_s=0.2, tpot_s=0.01)}
STARTUPS_S = (30.0, 120.0)
INTERRUPTED = 130
"""Exit code of a command that a person stopped."""


def planner_for(work: Work, startup_s: float) -> Scaler:
    """Make Baton's planner: nothing but targets and start-up time is set."""
    slo = work.slo
    return Planner(
        PlannerSettings(
            targets=TargetSettings(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s),
            kinds=(KindSettings(start_s=startup_s),),
        )
    )


def judged(
    scaler: Scaler, work: Work, bound: Bound, *, name: str, values: str, startup_s: float
) -> tuple[Run, Outcome]:
    """Run a scaler and tell what the run is worth."""
    run = run_scaler(scaler, work, startup_s=startup_s, tells_attainment=name == PLANNER)
    return run, outcome(run, bound, scaler=name, values=values, startup_s=startup_s)


def every_value(works: Mapping[str, Work], bounds: Mapping[str, Bound], startup_s: float) -> Iterator[Saved]:
    """Run the others with every value on every load."""
    for key, work in works.items():
        for name, every in BASELINES.items():
            tell(f"{key}: {name}, {len(every)} values")
            for tuned in every:
                _run, one = judged(
                    tuned.make(work), work, bounds[key], name=name, values=tuned.values, startup_s=startup_s
                )
                yield Saved(key=key, outcome=one)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Write a table for a page."""
    lines = [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
    lines += [f"| {' | '.join(row)} |" for row in rows(outcomes)]
    return "\n".join(lines)


def tell(text: str) -> None:
    """Say what is under way, beside the results."""
    print(f"... {text}", file=sys.stderr, flush=True)


def draw(folder: Path, name: str, run: Run, bound: Bound, points: Sequence[Outcome]) -> None:
    """Write the figures of one load: fleets over time, cost against attainment."""
    folder.mkdir(parents=True, exist_ok=True)
    load = run.work.load
    course = Course(name=PLANNER, paid=run.paid[load.counted], step_s=load.step_s)
    top = title(points[0])
    fleet = fleets(top, [course], bound=bound.fleet.astype(float), bound_step_s=bound.step_s)
    (folder / f"planner-{name}-fleet.svg").write_text(fleet + "\n", encoding="utf-8")
    (folder / f"planner-{name}-cost.svg").write_text(pareto(top, points) + "\n", encoding="utf-8")


def main() -> int:
    """Run what is asked for, and print it as it comes; returns the exit code."""
    options = _options()
    made = loads(options.traces, seed=options.seed)
    known = [name for name in made if options.traces is not None or name not in RECORDED]
    wanted = [name for name in known if options.loads is None or name in options.loads.split(",")]
    parts: dict[str, Load] = {name: shortened(made[name](), options.days * 86_400) for name in wanted}
    if options.routed is not None:
        _report, cluster = replayed(
            options.traces / MOONCAKE, SLOS["chat"], speed=8.0, workers=options.routed, first=None
        )
        served = routed_load(cluster, name="conversations, sped up 8x, as routed")
        parts["conversation-8x-routed"] = led(served, options.seed)
    everything: list[Saved] = []
    code = 0
    try:
        for slo_name in options.slos.split(","):
            for startup_s in options.startups:
                _block(options, parts, slo_name, startup_s, everything)
    except KeyboardInterrupt:
        tell("stopped: what follows is what was finished")
        code = INTERRUPTED
    print(summary(everything))
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(everything), indent=1))
    return code


def _block(
    options: argparse.Namespace, parts: Mapping[str, Load], slo_name: str, startup_s: float, kept: list[Saved]
) -> None:
    """Run all loads with one pair of targets and one start-up time; rows are kept as they come."""
    works = {key: Work(load=load, engine=DEFAULT_ENGINE, slo=SLOS[slo_name]) for key, load in parts.items()}
    bounds = {key: clairvoyant_bound(work, startup_s=startup_s) for key, work in works.items()}
    began_s = time.process_time()
    saved: list[Saved] = []
    for row in () if options.alone else every_value(works, bounds, startup_s):
        saved.append(row)
        kept.append(row)
    others_s, began_s = time.process_time() - began_s, time.process_time()
    for key, work in works.items():
        tell(f"{key}: {PLANNER}")
        run, one = judged(
            planner_for(work, startup_s), work, bounds[key], name=PLANNER, values="", startup_s=startup_s
        )
        foreseen = foreseen_fleet(work, startup_s=startup_s, late_frac=1.0 - GOAL_FRAC)
        kept.append(Saved(key=key, outcome=one, foreseen_ratio=foreseen.gpu_s / bounds[key].gpu_s))
        beside = [] if options.alone else [chosen(saved, key, name) for name in BASELINES]
        print(title(one) if options.markdown else table([one, *beside]))
        if options.markdown:
            print("\n" + markdown([one, *beside]) + "\n")
        sys.stdout.flush()
        if options.figures is not None:
            points = [one, *(other.outcome for other in saved if other.key == key)]
            draw(options.figures, f"{key}-{slo_name}-{startup_s:g}s", run, bounds[key], points)
    planned_s = time.process_time() - began_s
    print(f"CPU: planner {planned_s:.0f} s, others {others_s:.0f} s for {len(saved)} runs\n")


def _options() -> argparse.Namespace:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    command.add_argument("--traces", type=Path, help="folder of the recorded traces")
    command.add_argument("--loads", help="names of loads, with commas; default: all")
    command.add_argument("--days", type=float, default=14.0, help="counted part of each load, at most")
    command.add_argument("--slos", default="chat,quick", help="of " + ", ".join(SLOS))
    command.add_argument("--startups", type=float, nargs="+", default=list(STARTUPS_S), help="seconds")
    command.add_argument(
        "--routed", type=int, metavar="N", help="also conversations with what Baton's router hit, N workers"
    )
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--alone", action="store_true", help="only the planner")
    command.add_argument("--markdown", action="store_true", help="tables for a page")
    command.add_argument("--json", type=Path, help="where every row is written")
    command.add_argument("--figures", type=Path, help="folder for figures")
    return command.parse_args()


if __name__ == "__main__":
    sys.exit(main())
