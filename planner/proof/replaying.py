"""A trace through the planner and the autoscalers of others: what `baton plan --replay` computes.

Comes in: the text of a trace, the planner's settings. Goes out: a report with outcomes and courses.
Invariant: the planner runs with the settings as they are; the fluid cluster and the others get the engine,
the targets and the start-up time from them. Not here: opening files (`command`), words (`table`, `figure`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape

import msgspec

from planner.decision import Scaler
from planner.load import Engine
from planner.planner import Planner
from planner.proof.baselines.tuning import BASELINES, PLAIN
from planner.proof.bound import Bound, clairvoyant_bound, mixed_bound
from planner.proof.figure import Course, fleets, pareto
from planner.proof.fleet import Fleet
from planner.proof.load import Load, led_in
from planner.proof.mixture import Mixture, Part
from planner.proof.outcome import Outcome, outcome
from planner.proof.simulation import first_fleet, run_scaler
from planner.proof.table import table, title
from planner.proof.trace_loads import request_load, window_load
from planner.proof.trace_text import TracedRequests, parse_trace
from planner.proof.work import Work
from planner.settings import PlannerSettings

LEAD_S, LIKE_S = 1200.0, 120.0
"""Before a trace comes so long a quiet time, of the mean of so long a beginning."""
REQUESTS_STEP_S, WINDOWS_STEP_S = 1.0, 10.0
"""Step of traces of single requests, and of windows."""
PLANNER = "Baton's planner"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What a replay gave.

    Attributes:
        outcomes: the planner's first.
        courses: workers over time, in the order of the outcomes, counted part only.
        bound: the clairvoyant one.
    """

    outcomes: tuple[Outcome, ...]
    courses: tuple[Course, ...]
    bound: Bound

    def table(self) -> str:
        """Draw a table for a terminal."""
        return table(self.outcomes)

    def json(self) -> bytes:
        """Write all outcomes as JSON."""
        return msgspec.json.format(msgspec.json.encode(self.outcomes), indent=2)

    def page(self) -> str:
        """Make a page with the table and the figures."""
        name = title(self.outcomes[0])
        fleet = fleets(
            name, self.courses, bound=self.bound.fleet.astype(float), bound_step_s=self.bound.step_s
        )
        cost = pareto("cost over the bound, and requests late", self.outcomes)
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(name)}</title>'
            "<style>body{font:15px system-ui,sans-serif;max-width:900px;margin:2em auto;"
            "color-scheme:light dark}pre{overflow:auto}</style>"
            f"<pre>{escape(self.table())}</pre>{fleet}{cost}</html>"
        )


def trace_load(text: str, *, name: str, speed: float, factor: float, seed: int) -> Load:
    """Make a load of a trace of any known format, with a quiet time before it.

    Args:
        text: of the file.
        name: of the load.
        speed: arrivals come so many times as fast; of windows only their course is so much faster.
        factor: so many times as many requests; of single requests a whole number of shifted copies.
        seed: of everything drawn.

    Raises:
        ConfigurationInvalid: the text is no trace.
    """
    trace = parse_trace(text)
    if isinstance(trace, TracedRequests):
        load = request_load(name, trace, speed=speed, step_s=REQUESTS_STEP_S, copies=max(1, round(factor)))
    else:
        load = window_load(name, trace, speed=speed, step_s=WINDOWS_STEP_S, seed=seed, factor=factor)
    return led_in(load, lead_s=LEAD_S, like_s=LIKE_S, seed=seed + 1)


def replay_load(
    load: Load,
    settings: PlannerSettings,
    *,
    compares: bool = True,
    progress: Callable[[str], None] = lambda name: None,
) -> ReplayReport:
    """Run the planner, and the others beside it, through a load.

    Args:
        load: what arrives.
        settings: the planner's. The others have its first kind of worker only, by whose price all costs
            are told.
        compares: runs the autoscalers of others as well, each with its plain values.
        progress: called with the name of each before it runs.
    """
    kind = settings.kinds[0]
    works = _works(load, settings)
    work = works[0]
    if len(works) == 1:
        bound = clairvoyant_bound(work, startup_s=kind.start_s)
    else:
        prices = [one.price_per_hour / kind.price_per_hour for one in settings.kinds]
        bound = mixed_bound(works, prices)
    outcomes, courses = [], []
    for name, values, scaler in _scalers(settings, work, compares):
        progress(name)
        run = run_scaler(
            scaler,
            work,
            startup_s=kind.start_s,
            kind=kind.name,
            fleet=first_mixture(load, settings) if name == PLANNER else None,
            spills=settings.spills,
            tells_attainment=name == PLANNER,
        )
        outcomes.append(outcome(run, bound, scaler=name, values=values, startup_s=kind.start_s))
        courses.append(Course(name=name, paid=run.paid[load.counted], step_s=load.step_s))
    return ReplayReport(outcomes=tuple(outcomes), courses=tuple(courses), bound=bound)


def _works(load: Load, settings: PlannerSettings) -> list[Work]:
    """Tell what a load costs on each kind of worker."""
    engines = [
        Engine(
            performance=kind.model(),
            kv_tokens=kind.kv_tokens,
            sequences_max=kind.sequences_max,
            step_tokens_max=kind.step_tokens_max,
        )
        for kind in settings.kinds
    ]
    return [Work(load=load, engine=engine, slo=settings.targets.slo) for engine in engines]


def first_mixture(load: Load, settings: PlannerSettings) -> Mixture:
    """Make the fleet of the first step; workers of each kind are worth what they carry at the best pace.

    Args:
        load: what arrives.
        settings: with the kinds; the fleet is of the first one.
    """
    works = _works(load, settings)
    first, reference = settings.kinds[0], works[0]
    parts = []
    for kind, work in zip(settings.kinds, works, strict=True):
        fleet = Fleet(startup_s=kind.start_s, kind=kind.name)
        if kind is first:
            fleet = first_fleet(reference, startup_s=kind.start_s, kind=kind.name)
        parts.append(
            Part(
                fleet=fleet,
                price=kind.price_per_hour / first.price_per_hour,
                power_w=kind.power_w,
                prefill=float(reference.packed_s.mean() / work.packed_s.mean()),
                decode=float(reference.packed_decode_s.mean() / work.packed_decode_s.mean()),
            )
        )
    return Mixture(tuple(parts))


def _scalers(settings: PlannerSettings, work: Work, compares: bool) -> Iterator[tuple[str, str, Scaler]]:
    yield PLANNER, "", Planner(settings)
    if compares:
        for name, every in BASELINES.items():
            tuned = next(one for one in every if one.values == PLAIN[name])
            yield name, tuned.values, tuned.make(work)
