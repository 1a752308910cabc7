"""What `baton plan --replay FILE` calls: opens the trace, writes the page.

Comes in: paths and options. Goes out: a report. Not here: everything that is computed (`replaying`).
"""

from collections.abc import Callable
from pathlib import Path

from planner.proof.replaying import ReplayReport, replay_load, trace_load
from planner.settings import PlannerSettings
from services.domain.errors import ConfigurationInvalid


def replay_file(
    path: Path,
    settings: PlannerSettings,
    *,
    speed: float = 1.0,
    factor: float = 1.0,
    seed: int = 0,
    compares: bool = True,
    page: Path | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> ReplayReport:
    """Replay a trace against the planner.

    Args:
        path: a trace: Mooncake's JSON lines, Azure's CSV of 2023, windows of requests per minute or second.
        settings: the planner's, with targets, engine and start-up time.
        speed: arrivals come so many times as fast, > 0.
        factor: so many times as many requests, > 0.
        seed: of everything drawn.
        compares: runs the autoscalers of others beside it.
        page: where a page with figures is written; None: nowhere.
        progress: called with the name of each scaler before it runs.

    Returns:
        The report: `table()`, `json()`, `outcomes`.

    Raises:
        ConfigurationInvalid: the file cannot be read or is no trace, or an option is impossible.
    """
    for key, value in (("speed", speed), ("factor", factor)):
        if not 0 < value < float("inf"):
            raise ConfigurationInvalid(key=key, message=f"{key} must be greater than 0")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(key="trace", message=f"{path}: {error}") from error
    load = trace_load(text, name=path.name, speed=speed, factor=factor, seed=seed)
    report = replay_load(load, settings, compares=compares, progress=progress)
    if page is not None:
        page.write_text(report.page(), encoding="utf-8")
    return report
