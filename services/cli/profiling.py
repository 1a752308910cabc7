"""`baton profile`: measure an engine, or read published times, and fit the performance model to them."""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from services.cli.calibrating import Calibrated, calibrate_published, check_budget, is_virtual, measure_live
from services.cli.fit_report import print_groups, print_report, render_preset
from services.cli.output import add_json, write_json
from services.cli.up import read_settings
from services.cluster.settings import ClusterSettings
from services.domain.errors import ConfigurationInvalid
from services.engine.calibration.published import SEQUENCES_MAX
from services.engine.calibration.survey import Progress
from services.runtime.clock import run_virtual
from services.runtime.lifecycle import StopSignal
from services.runtime.tasks import first_of

_EXAMPLES = """\
examples:
  baton profile                                       the shipped model on vLLM, as `baton up` runs it
  baton profile --config cluster.yaml --write times.yaml
  baton profile --config cluster.yaml --handoff       two engines: also how long KV takes to move
  baton profile --quick --json -
  baton profile --data prefill.npz --data decode.npz  fit what others measured
  baton profile --data grid.csv --group "llama3.1-8b-fp8 h200_sxm 1"
"""

BUDGET_S = 150.0
QUICK_S = 40.0
INTERRUPTED = 130
_INTERRUPTED_TEXT = "interrupted: nothing was fitted"
PROGRESS_S = 0.5
"""Real time between two lines of progress on a terminal."""
PROGRESS_FILE_S = 10.0
"""The same when progress goes to a file."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "profile",
        help="measure an engine and fit the performance model to it",
        description=(
            "Start an engine as a worker of the cluster would, measure prefill and decode, fit the "
            "performance model by which requests are routed, and say how far it is off. Nothing else should "
            "run on the engine's cores or GPU meanwhile."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--config", type=Path, metavar="FILE", help="YAML settings, as for `baton up`")
    command.add_argument("--engine", choices=("vllm", "simulated"), help="engine (default: vllm)")
    command.add_argument("--model", metavar="FOLDER", help="model folder (default: the tiny model shipped)")
    command.add_argument("--handoff", action="store_true", help="measure handoffs too, with a second engine")
    command.add_argument("--quick", action="store_true", help="fewer and smaller shapes")
    command.add_argument(
        "--budget-s",
        type=float,
        metavar="S",
        help=f"time to measure, without the start (default: {BUDGET_S:g}, quick {QUICK_S:g})",
    )
    command.add_argument(
        "--data", type=Path, action="append", metavar="FILE", help=".npz or .csv to fit instead; repeatable"
    )
    command.add_argument("--group", metavar="NAME", help="of a CSV with several engines, the one to fit")
    command.add_argument(
        "--sequences-max",
        type=int,
        default=SEQUENCES_MAX,
        metavar="N",
        help=f"leave out data with more sequences than the engine ran (default: {SEQUENCES_MAX})",
    )
    command.add_argument("--preset", metavar="NAME", help="judge this one beside the fit (default: in use)")
    command.add_argument("--write", type=Path, metavar="FILE", help="write the fitted model as YAML")
    add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the subcommand."""
    if options.data:
        for name in ("config", "engine", "model", "handoff", "quick", "budget_s"):
            if getattr(options, name):
                flag = "--" + name.replace("_", "-")
                raise ConfigurationInvalid(key="data", message=f"{flag} is for an engine, not for --data")
        found = calibrate_published(
            options.data, sequences_max=options.sequences_max, preset_name=options.preset
        )
        return _published(found, options)
    if options.group is not None:
        raise ConfigurationInvalid(key="group", message="--group is for --data")
    settings = read_settings(options)
    budget_s = options.budget_s if options.budget_s is not None else (QUICK_S if options.quick else BUDGET_S)
    check_budget(budget_s)
    play = run_virtual if is_virtual(settings) else asyncio.run
    with _answers_alone():
        measured = play(_until_stopped(settings, options, budget_s))
    if measured is None:
        print(_INTERRUPTED_TEXT, file=sys.stderr)
        return INTERRUPTED
    return _show(measured, options)


def _published(found: dict[str, Calibrated], options: argparse.Namespace) -> int:
    if options.group is not None and options.group not in found:
        raise ConfigurationInvalid(
            key="group", message=f"--group: no {options.group!r}; there are {', '.join(sorted(found))}"
        )
    if options.group is None and len(found) > 1:
        if options.write is not None:
            raise ConfigurationInvalid(key="group", message="--write: name one engine with --group")
        if not write_json(options.json, list(found.values())):
            print_groups(found)
        return 0
    return _show(found[options.group or next(iter(found))], options)


def _show(measured: Calibrated, options: argparse.Namespace) -> int:
    if options.write is not None:
        options.write.write_text(render_preset(measured), encoding="utf-8")
    if not write_json(options.json, measured):
        print_report(measured)
        if options.write is not None:
            print(f"written to {options.write}")
    return 0


async def _until_stopped(
    settings: ClusterSettings, options: argparse.Namespace, budget_s: float
) -> Calibrated | None:
    """Measure; None when a signal came first. The engine has ended either way."""
    stop = StopSignal()
    stop.install()
    progress = _Progress()
    measuring = asyncio.ensure_future(
        measure_live(
            settings,
            handoff=options.handoff,
            quick=options.quick,
            budget_s=budget_s,
            preset_name=options.preset,
            tell=progress,
            say=progress.say,
        )
    )
    asked, forced = (asyncio.ensure_future(event.wait()) for event in (stop.asked, stop.forced))
    try:
        await first_of(measuring, asked)
        if measuring.done():
            return measuring.result()
        progress.say("stopping the engine … (Ctrl-C again to leave at once)")
        measuring.cancel()
        await first_of(measuring, forced)
        if not is_virtual(settings):
            progress.end()
            _leave()
        return None
    finally:
        progress.end()
        asked.cancel()
        forced.cancel()


def _leave() -> NoReturn:
    """End this process now: an engine that was still starting has a thread that nobody can stop."""
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    print(_INTERRUPTED_TEXT, file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def _answers_alone() -> Iterator[None]:
    """Send what the engine and its processes print to standard error: the answer stands alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


class _Progress:
    """Says how far it is, on standard error."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._said_s = 0.0

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s < (PROGRESS_S if self._is_terminal else PROGRESS_FILE_S):
            return
        self._said_s = now_s
        self.say(
            f"{progress.elapsed_s:.0f} s: {progress.phase}, round {progress.round_number}, "
            f"{progress.measured_count} of {progress.shape_count} shapes have a time"
        )

    def say(self, text: str) -> None:
        """Say a line; on a terminal it replaces the one before."""
        print(
            f"\r{text}\033[K" if self._is_terminal else text,
            end="" if self._is_terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
