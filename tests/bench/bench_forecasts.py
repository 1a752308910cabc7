"""The planner's forecasts beside those of a forecasting library, look by look, on the loads of the proof.

    python -m tests.bench.bench_forecasts --traces DIR --library-python PYTHON

PYTHON has `statsforecast` (2.1.1 was measured) and nothing of ours. Per load and horizon stands the root mean
square error of requests per second, as a share of their mean: what chance alone makes of a look, the last
look taken as forecast, our forecaster, and the library's methods; all over the same looks, those for which
every method told something. And what a look costs each. What was decided by it: docs/decisions/0010.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from planner.decision import Decision
from planner.forecasting.ensemble import Forecaster
from planner.load import Array
from planner.observation import Demand, Observation
from planner.planner import Planner
from planner.proof.load import Load
from planner.proof.simulation import run_scaler
from planner.proof.work import DEFAULT_ENGINE, Work
from planner.settings import PlannerSettings
from services.domain.slo import Slo
from tests.bench.planner_loads import RECORDED, loads, shortened

LOOK_S = 10.0
STARTUPS_S = (30.0, 120.0)
LOOKS_MIN = 30
"""Of fewer looks nothing is told."""


class Listener:
    """A scaler that writes down what the one behind it observes."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self.seen: list[tuple[float, Demand]] = []

    def decide(self, observation: Observation) -> Decision:
        """Write down, and let the planner decide."""
        if observation.demand is not None:
            self.seen.append((observation.at_s, observation.demand))
        return self._planner.decide(observation)


def looks(load: Load) -> list[tuple[float, Demand]]:
    """What a planner sees of a load."""
    listener = Listener(Planner(PlannerSettings()))
    work = Work(load=load, engine=DEFAULT_ENGINE, slo=Slo(ttft_s=2.0, tpot_s=0.025))
    run_scaler(listener, work, startup_s=STARTUPS_S[0], tells_attainment=False)
    return listener.seen


def ours(seen: list[tuple[float, Demand]]) -> tuple[list[Array], float | None, float]:
    """Forecast for both horizons after each look.

    Returns:
        Requests per second, [horizons][looks]; the season found at the end, in seconds; seconds per look.
    """
    forecaster = Forecaster((LOOK_S, *(startup_s + LOOK_S for startup_s in STARTUPS_S)))
    told: list[list[float]] = [[] for _ in STARTUPS_S]
    began_s = time.process_time()
    for at_s, demand in seen:
        forecaster.fold(at_s, demand)
        for place, values in enumerate(told):
            values.append(forecaster.ahead(1 + place).requests_per_s)
    took_s = (time.process_time() - began_s) / len(seen)
    return [np.array(values) for values in told], forecaster.season_s, took_s


def library(python: str, values: Array, season_s: float | None, ahead: int) -> dict[str, tuple[Array, float]]:
    """Forecast with the library: by method [looks, ahead], not a number where it told nothing; seconds."""
    season = None if season_s is None else round(season_s / LOOK_S)
    asked = json.dumps({"season_looks": season, "ahead_looks": ahead, "series": [values.tolist()]})
    program = Path(__file__).with_name("library_forecasts.py")
    done = subprocess.run([python, str(program)], input=asked, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"bench_forecasts: {python} failed: {done.stderr.strip()[-800:]}")
    nothing = [np.nan] * ahead
    return {
        name: (np.array([nothing if row is None else row for row in told["forecasts"][0]]), told["look_s"])
        for name, told in json.loads(done.stdout).items()
    }


def rows(load: Load, python: str) -> list[str]:
    """Lines of one load's table."""
    seen = looks(load)
    values = np.array([demand.requests_per_s for _at_s, demand in seen])
    counted = np.array([at_s for at_s, _demand in seen]) >= load.counted_from_s
    own, season_s, own_look_s = ours(seen)
    most = round((max(STARTUPS_S) + LOOK_S) / LOOK_S)
    theirs = library(python, values, season_s, most)
    lines = []
    for startup_s, mine in zip(STARTUPS_S, own, strict=True):
        after = round((startup_s + LOOK_S) / LOOK_S)
        told = {name: every[:-after, after - 1] for name, (every, _look_s) in theirs.items()}
        told = {"last look": values[:-after], "ours": mine[:-after], **told}
        is_judged = counted[:-after] & np.all([np.isfinite(each) for each in told.values()], axis=0)
        true = values[after:][is_judged]
        if len(true) < LOOKS_MIN:
            lines.append(f"{load.name}, {startup_s + LOOK_S:g} s: too short")
            continue
        chance = np.sqrt((true / LOOK_S).mean()) / true.mean()
        errors = [
            f"{name} {np.sqrt(((each[is_judged] - true) ** 2).mean()) / true.mean():.3f}"
            for name, each in told.items()
        ]
        lines.append(
            f"{load.name}, {startup_s + LOOK_S:g} s, {len(true)} looks: chance {chance:.3f}, "
            + ", ".join(errors)
        )
    costs = [f"{name} {1000 * look_s:.1f}" for name, (_every, look_s) in theirs.items()]
    ours_ms = f"ours (three series, three horizons) {1000 * own_look_s:.1f}"
    return [*lines, f"  ms per look: {ours_ms}, of one series {', '.join(costs)}"]


def main() -> int:
    """Print the errors on every load; returns the exit code."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    command.add_argument("--traces", type=Path, help="folder of the recorded traces")
    command.add_argument("--library-python", required=True, help="interpreter with statsforecast")
    command.add_argument("--loads", help="names of loads, with commas; default: all")
    command.add_argument("--days", type=float, default=0.5, help="counted part of each load, at most")
    options = command.parse_args()
    made = loads(options.traces, seed=1)
    known = [name for name in made if options.traces is not None or name not in RECORDED]
    for name in (name for name in known if options.loads is None or name in options.loads.split(",")):
        for line in rows(shortened(made[name](), options.days * 86_400.0), options.library_python):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
