"""Calibrates: an engine of a cluster's settings, or published measurements.

Comes in: settings or files. Goes out: the fit beside the model it is compared with, and all points.
Invariant: an engine that was started has ended when `measure_live` returns, fails or is cancelled.
Not here: arguments (`profiling`), how it is shown (`fit_report`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.cluster.local import engine_cores, model_facts
from services.cluster.plan import workers_of
from services.cluster.settings import ClusterSettings, EngineKind
from services.domain.errors import ConfigurationInvalid
from services.domain.performance import PerformanceModel, preset
from services.engine.calibration.fit import Fit, fit
from services.engine.calibration.measure import Subject
from services.engine.calibration.points import Point
from services.engine.calibration.published import read_published
from services.engine.calibration.survey import ROUNDS_MAX, Tell, survey
from services.engine.simulated.fabric import Fabric
from services.engine.simulated.settings import SimulatedSettings

BUDGET_MIN_S = 5.0
FIRST_TOKEN_ID = 300
"""Prompts are drawn from the tokens behind it: special ones and single bytes come first in many models."""
VIRTUAL_BUDGET_S = 1e6
"""On a virtual clock time costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What came of a calibration.

    Attributes:
        source: what was measured, for a person.
        section: of the cluster's settings that the model belongs to.
        fit: the new model.
        before_name: the preset that it is compared with; empty for a model without a name.
        before: that model.
        points: all measurements.
        notes: what a reader must know, as sentences.
    """

    source: str
    section: str
    fit: Fit
    before_name: str
    before: PerformanceModel
    points: tuple[Point, ...]
    notes: tuple[str, ...]


def is_virtual(settings: ClusterSettings) -> bool:
    """Tell whether the engine takes its time from the clock, so that a virtual one gives the same."""
    return settings.engine is EngineKind.SIMULATED


def check_budget(budget_s: float) -> None:
    """Refuse a budget in which nothing can be measured.

    Raises:
        ConfigurationInvalid: it is too short.
    """
    if not budget_s >= BUDGET_MIN_S:
        raise ConfigurationInvalid(
            key="budget_s", message=f"--budget-s must be at least {BUDGET_MIN_S:g}, not {budget_s:g}"
        )


async def measure_live(
    settings: ClusterSettings,
    *,
    handoff: bool,
    quick: bool,
    budget_s: float,
    preset_name: str | None,
    tell: Tell,
    say: Callable[[str], None],
) -> Calibrated:
    """Start the engine of a cluster's first worker, measure it, end it.

    Args:
        settings: of the cluster.
        handoff: start the last worker's engine as well, and measure handoffs to it.
        quick: fewer and smaller shapes.
        budget_s: time to measure, s.
        preset_name: what the fit is compared with; None takes the model in use.
        tell: called before each shape.
        say: called with a line about what happens outside the measuring.

    Raises:
        ServingError: an engine did not start, refused or failed.
        ConfigurationInvalid: the settings name no second worker, or the preset is none.
    """
    from services.worker.process import make_engine  # the bus and its imports: not for other subcommands

    asked_for = preset(preset_name) if preset_name is not None else None
    model = model_facts(settings)
    workers = workers_of(settings, model=model, cores=engine_cores())
    if handoff and len(workers) < 2:
        raise ConfigurationInvalid(key="pools", message="--handoff needs two workers: see pools")
    first_id = min(FIRST_TOKEN_ID, model.vocabulary_size // 2)
    fabric = Fabric()
    subjects: list[Subject] = []
    try:
        for worker in (workers[0], workers[-1]) if handoff else workers[:1]:
            say(f"starting the engine of {worker.worker_id} …")
            subject = Subject(
                make_engine(worker, fabric),
                model=worker.model,
                token_ids=range(first_id, model.vocabulary_size),
            )
            subjects.append(subject)
            await subject.start()
        found = await survey(
            subjects[0],
            budget_s=VIRTUAL_BUDGET_S if is_virtual(settings) else budget_s,
            quick=quick,
            tell=tell,
            other=subjects[1] if handoff else None,
            rounds_max=1 if is_virtual(settings) else ROUNDS_MAX,
        )
    finally:
        for subject in subjects:
            await subject.engine.stop()
    info = subjects[0].info
    before = asked_for or info.performance
    engine = workers[0].engine
    named = engine.performance if isinstance(engine.performance, str) else ""
    if isinstance(engine, SimulatedSettings) and engine.speedup != 1.0:
        named = ""
    return Calibrated(
        source=f"{info.kind} engine, model {workers[0].model}: "
        f"{found.rounds_count} {'round' if found.rounds_count == 1 else 'rounds'} in {found.took_s:.0f} s",
        section=info.kind,
        fit=fit(
            found.points,
            before=info.performance,
            kv_tokens=info.limits.kv_blocks * info.limits.block_size_tokens,
        ),
        before_name=preset_name or named,
        before=before,
        points=found.points,
        notes=tuple(f"not measured: {text}" for text in found.missed),
    )


def calibrate_published(
    files: Sequence[Path], *, sequences_max: int, preset_name: str | None
) -> dict[str, Calibrated]:
    """Fit published measurements, each group by itself.

    Args:
        files: `.npz` or `.csv`.
        sequences_max: points with more sequences are left out.
        preset_name: what the fits are compared with; None takes the default of the simulated engine.

    Raises:
        ConfigurationInvalid: a file is not understood, or the preset is none.
    """
    name = preset_name or str(SimulatedSettings().performance)
    before = preset(name)
    groups = read_published(files, sequences_max=sequences_max)
    return {
        group: Calibrated(
            source=f"{', '.join(file.name for file in files)}: {group}",
            section="vllm",
            fit=fit(found.points, before=before, kv_tokens=found.kv_tokens),
            before_name=name,
            before=before,
            points=tuple(found.points),
            notes=(
                (f"{found.left_out_count} points with more than {sequences_max} sequences left out",)
                if found.left_out_count
                else ()
            ),
        )
        for group, found in groups.items()
    }
