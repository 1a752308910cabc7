"""`baton replay`: a recorded or made trace through a simulated cluster, under one or several policies."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from services.cli.output import add_json, table, write_json
from services.domain.errors import ConfigurationInvalid
from services.replay.cluster import Cluster
from services.replay.comparison import COLUMNS, headline, name_of, remarks
from services.replay.measured import read_measured, remark
from services.replay.policies import POLICIES
from services.replay.policy import FirstToken, Mechanisms
from services.replay.presets import DEFAULT_TIMING, timings
from services.replay.report_page import render
from services.replay.run import ReplaySettings, Report, replay
from services.replay.trace_files import read_trace
from services.replay.traces import Trace
from services.replay.workloads import REQUESTS_COUNT, WORKLOADS, make_workload

_EXAMPLES = """\
examples:
  baton replay trace.jsonl                                      8 workers, round robin
  baton replay trace.jsonl --policy round-robin --policy dynamo-kv --speedup 3
  baton replay trace.jsonl --policy dynamo-kv --prefill-workers 4 --timing dynamo-mocker
  baton replay lengths.csv --workers 32 --json answer.json
  baton replay --workload bursts --first 500
  baton explain --export last.jsonl && baton replay last.jsonl --policy dynamo-kv --workers 4
  baton replay trace.jsonl --policy all --policy dynamo-kv:4 --speedup 3 --report comparison.html
"""

BY_CHUNKS, BY_LAYERS = "chunks", "layers"
PROGRESS_S = 0.5
"""Real time between two lines of progress on a terminal."""
PROGRESS_FILE_S = 5.0
"""The same when progress goes to a file."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "replay",
        help="replay a trace through a simulated cluster and compare policies",
        description=(
            "Send the requests of a trace (Mooncake's JSON lines, or CSV with arrival, input and output "
            "lengths) through simulated workers on a virtual clock, and measure what a policy makes of them."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("trace", nargs="?", type=Path, metavar="TRACE", help="the file")
    command.add_argument("--workload", metavar="NAME", help=f"made instead: {', '.join(sorted(WORKLOADS))}")
    command.add_argument("--seed", type=int, default=0, help="of a made workload (default: 0)")
    command.add_argument("--workers", type=int, default=8, metavar="N", help="workers (default: 8)")
    command.add_argument(
        "--speedup", type=float, default=1.0, metavar="X", help="arrivals come X times as fast (default: 1)"
    )
    command.add_argument(
        "--timing",
        default=DEFAULT_TIMING,
        metavar="PRESET",
        help=f"engine: {', '.join(sorted(timings()))} (default: {DEFAULT_TIMING})",
    )
    command.add_argument(
        "--policy",
        action="append",
        metavar="NAME",
        help=(
            f"{', '.join(sorted(POLICIES))} (default: round-robin), or all; NAME:P is NAME with P prefill "
            "workers; several give one table"
        ),
    )
    command.add_argument(
        "--prefill-workers", type=int, metavar="P", help="fixed split: P workers prefill, the others decode"
    )
    _add_mechanisms(command)
    command.add_argument("--ttft-slo-s", type=float, default=2.0, metavar="S", help="target (default: 2)")
    command.add_argument(
        "--itl-slo-s", type=float, default=0.025, metavar="S", help="target (default: 0.025)"
    )
    command.add_argument("--first", type=int, metavar="N", help="only the first N requests")
    command.add_argument(
        "--spread-s", type=float, default=0.0, metavar="S", help="spread arrivals evenly over ticks of S"
    )
    command.add_argument(
        "--status-delay-s", type=float, default=0.0, metavar="S", help="the policy sees counters so old"
    )
    command.add_argument(
        "--event-delay-s", type=float, default=0.0, metavar="S", help="the policy learns of caches so late"
    )
    add_json(command)
    command.add_argument(
        "--report", type=Path, metavar="FILE", help="also write the comparison as one HTML page with figures"
    )
    command.add_argument("--quiet", action="store_true", help="no progress")
    command.set_defaults(run=run_command)


def _add_mechanisms(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("handoffs (default: as the policy says)")
    group.add_argument(
        "--stream-kv",
        nargs="?",
        const=BY_CHUNKS,
        choices=(BY_CHUNKS, BY_LAYERS),
        help="KV moves while prefill goes on, each chunk when it is computed, or its layers as they are",
    )
    group.add_argument(
        "--first-token",
        type=FirstToken,
        choices=list(FirstToken),
        help="who writes the first token: the decode worker, or the prefill worker at once or just in time",
    )


def run_command(options: argparse.Namespace) -> int:
    """Run the subcommand."""
    trace = _trace(options)
    settings = [_settings(options, policy) for policy in _policies(options.policy)]
    reports = []
    for wanted in settings:
        progress = None if options.quiet else _Progress(wanted.policy, len(trace.requests), wanted.first)
        try:
            report, _cluster = replay(trace, wanted, progress)
        finally:
            if progress is not None:
                progress.end()
        reports.append(report)
    if options.report is not None:
        options.report.write_text(render(reports), encoding="utf-8")
    if not write_json(options.json, reports[0] if len(reports) == 1 else reports):
        _print(reports)
        said = None if options.trace is None else remark(read_measured(options.trace)[: options.first])
        if said is not None:
            print(said)
    return 0


def _policies(asked: Sequence[str] | None) -> list[str]:
    """List the policies asked for, each once."""
    named = asked or ["round-robin"]
    return list(
        dict.fromkeys(name for one in named for name in (sorted(POLICIES) if one == "all" else [one]))
    )


def _trace(options: argparse.Namespace) -> Trace:
    if (options.trace is None) == (options.workload is None):
        raise ConfigurationInvalid(key="trace", message="name one trace: a file, or --workload NAME")
    if options.trace is not None:
        return read_trace(options.trace)
    return make_workload(options.workload, seed=options.seed, count=options.first or REQUESTS_COUNT)


def _settings(options: argparse.Namespace, policy: str) -> ReplaySettings:
    policy, _colon, split = policy.partition(":")
    if split and not split.isdecimal():
        raise ConfigurationInvalid(key="policy", message=f"policy: {split!r} is no number of prefill workers")
    mechanisms = None
    if options.stream_kv is not None or options.first_token is not None:
        mechanisms = Mechanisms(
            streams_kv=options.stream_kv is not None,
            streams_layers=options.stream_kv == BY_LAYERS,
            first_token=options.first_token or FirstToken.DECODE,
        )
    return ReplaySettings(
        policy=policy,
        workers=options.workers,
        speedup=options.speedup,
        timing=options.timing,
        prefill_workers=int(split) if split else options.prefill_workers,
        mechanisms=mechanisms,
        ttft_slo_s=options.ttft_slo_s,
        itl_slo_s=options.itl_slo_s,
        spread_s=options.spread_s,
        seed=None if options.workload is None else options.seed,
        first=options.first,
        status_delay_s=options.status_delay_s,
        event_delay_s=options.event_delay_s,
    )


class _Progress:
    """Says how far a replay is, on standard error."""

    def __init__(self, policy: str, total: int, first: int | None) -> None:
        self._policy = policy
        self._total = min(total, first or total)
        self._is_terminal = sys.stderr.isatty()
        self._began_s = self._said_s = time.monotonic()
        self._said = False

    def __call__(self, cluster: Cluster) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s < (PROGRESS_S if self._is_terminal else PROGRESS_FILE_S):
            return
        self._said_s, self._said = now_s, True
        rate = cluster.arrived_count / (now_s - self._began_s)
        line = (
            f"{self._policy}: {cluster.arrived_count / self._total:.0%} of {self._total:,} requests, "
            f"{cluster.now_s:,.0f} s simulated, {rate:,.0f} requests/s"
        )
        print(
            f"\r{line}\033[K" if self._is_terminal else line,
            end=self._line_end(),
            file=sys.stderr,
            flush=True,
        )

    def end(self) -> None:
        """Leave the line."""
        if self._said and self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _line_end(self) -> str:
        return "" if self._is_terminal else "\n"


def _print(reports: Sequence[Report]) -> None:
    print(headline(reports))
    columns = ["policy"]
    for place, column in enumerate(COLUMNS):
        is_first = place == 0 or COLUMNS[place - 1].group != column.group
        columns.append(f"{column.group} {column.name}".strip() if is_first else column.name)
    rows = [[name_of(report), *(column.cell(report) for column in COLUMNS)] for report in reports]
    for line in [*table(columns, rows), *remarks(reports)]:
        print(line)
    simulated_s = sum(report.duration_s for report in reports)
    took_s = sum(report.took_s for report in reports)
    print(f"{simulated_s:,.0f} s simulated in {took_s:.1f} s")
