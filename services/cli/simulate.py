"""`baton simulate`: the whole cluster on a virtual clock, with faults drawn from seeds."""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from services.simulation.campaign import Verdict, run_seeds
from services.simulation.draw import draw
from services.simulation.run import run
from services.simulation.scenario import Scenario, read, render
from services.simulation.shrink import shrink
from services.simulation.story import tell

_EXAMPLES = """\
examples:
  baton simulate                             100 seeds, a line for each
  baton simulate --seeds 20000 --quiet       many; only failures and the sum are printed
  baton simulate --seeds 500 --first 1000    other seeds
  baton simulate --seed 42                   one seed, told event by event
  baton simulate --seed 42 --request r7      only what concerns one request
  baton simulate --seed 42 --save case.json --shrink
  baton simulate --scenario case.json        what was saved, again
"""

FAILURES_SHOWN_MAX = 20


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "simulate",
        help="run the cluster on a virtual clock under faults and check its promises",
        description=(
            "Run whole clusters (the real gateways, routers and workers on a simulated network, bus and "
            "engines) through faults drawn from seeds, and check the invariants. The same seed gives the "
            "same run, byte for byte. Exits with 1 when a promise was broken."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--seeds", type=int, default=100, metavar="N", help="how many (default: 100)")
    command.add_argument("--first", type=int, default=0, metavar="SEED", help="the first (default: 0)")
    command.add_argument("--seed", type=int, metavar="SEED", help="this one alone, told event by event")
    command.add_argument("--scenario", type=Path, metavar="FILE", help="a saved scenario instead of a seed")
    command.add_argument("--request", action="append", metavar="NAME", help="tell only of this request")
    command.add_argument("--shrink", action="store_true", help="make a failing scenario small first")
    command.add_argument("--save", type=Path, metavar="FILE", help="write the scenario told to a file")
    command.add_argument("--processes", type=int, metavar="N", help="side by side (default: one per core)")
    command.add_argument("--quiet", action="store_true", help="print failures and the sum only")
    command.set_defaults(run=run_command)


def run_command(options: argparse.Namespace) -> int:
    """Run the subcommand."""
    if options.scenario is not None:
        return _tell(read(options.scenario), options)
    if options.seed is not None:
        return _tell(draw(options.seed), options)
    return _campaign(options)


def _tell(scenario: Scenario, options: argparse.Namespace) -> int:
    report = run(scenario)
    if options.shrink and report.violations:
        print("making it small …", file=sys.stderr)
        report = shrink(report)
    print(tell(report, requests=None if options.request is None else frozenset(options.request)))
    if options.save is not None:
        options.save.write_bytes(render(report.scenario) + b"\n")
        print(f"\nsaved; run it again with: baton simulate --scenario {options.save}")
    return 1 if report.violations else 0


def _campaign(options: argparse.Namespace) -> int:
    began_s = time.monotonic()
    seeds = range(options.first, options.first + max(0, options.seeds))
    failures: list[Verdict] = []
    sums: Counter[str] = Counter()
    for done, verdict in enumerate(run_seeds(seeds, processes=options.processes), start=1):
        sums.update(dict(verdict.ends))
        sums.update(faults=verdict.faults, events=verdict.events)
        if verdict.violations:
            failures.append(verdict)
        if verdict.violations or not options.quiet:
            print(verdict.line(), flush=True)
        elif sys.stderr.isatty() and done % 20 == 0:
            print(f"\r{done} of {len(seeds)} seeds", end="", file=sys.stderr, flush=True)
    _print_sum(len(seeds), sums, failures, time.monotonic() - began_s)
    return 1 if failures else 0


def _print_sum(count: int, sums: Counter[str], failures: list[Verdict], took_s: float) -> None:
    faults, events = sums.pop("faults", 0), sums.pop("events", 0)
    calls = ", ".join(f"{number:,} {end}" for end, number in sorted(sums.items()))
    print(f"\n{count:,} seeds in {took_s:.0f} s: {faults:,} faults, {events:,} events; calls: {calls}")
    if not failures:
        print("every promise was kept")
        return
    print(f"{len(failures)} seeds broke a promise:")
    for verdict in failures[:FAILURES_SHOWN_MAX]:
        print(f"  {verdict.seed}: {verdict.violations[0]}")
    print(f"see how: baton simulate --seed {failures[0].seed} --shrink")
