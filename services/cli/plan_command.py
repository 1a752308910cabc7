"""`baton plan`: what a load needs, what the planner would do with a cluster, or would have done on a trace.

Nothing is ever scaled by this command; `baton planner` does that.
"""

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from planner.load import Engine, ExpectedLoad
from planner.loop import Entry
from planner.process_settings import PlannerProcessSettings
from planner.settings import KindSettings, PlannerSettings
from planner.sizing.needs import Sizing
from services.cli.output import add_json, table, write_json
from services.domain.errors import ConfigurationInvalid
from services.runtime.metrics import Meters
from services.runtime.settings import override, parse, read_yaml

_EXAMPLES = """\
examples:
  baton plan --requests-per-s 45 --prompt-tokens 1155 --output-tokens 211
  baton plan --requests-per-s 45 --prompt-tokens 1155 --output-tokens 211 --set planner.targets.ttft_s=0.2
  baton plan --settings planner.yaml --looks 6            watch a running cluster for a minute
  baton plan --settings planner.yaml --json decisions.json
  baton plan --replay trace.jsonl --report planner.html   beside other autoscalers and a clairvoyant bound
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "plan",
        help="how many workers a load needs, or what the planner would do and why",
        description="Size both pools for a load given here, or replay a trace against the planner; without "
        "either, watch the cluster that the settings name and say what the planner would do and why. Nothing "
        "is scaled.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--settings", type=Path, metavar="FILE", help="of a planner; see docs/settings.md")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set one key of the settings"
    )
    command.add_argument(
        "--looks", type=int, default=6, metavar="N", help="looks at the cluster (default: 6)"
    )
    group = command.add_argument_group("a load")
    group.add_argument("--requests-per-s", type=float, metavar="R", help="arrivals")
    group.add_argument("--prompt-tokens", type=float, metavar="N", help="mean of a prompt")
    group.add_argument(
        "--cached-tokens", type=float, default=0.0, metavar="N", help="of it, cached (default: 0)"
    )
    group.add_argument("--output-tokens", type=float, metavar="N", help="mean of an output")
    group.add_argument(
        "--variation",
        type=float,
        default=1.0,
        metavar="X",
        help="standard deviation of prompt lengths over their mean (default: 1)",
    )
    trace = command.add_argument_group("a trace")
    trace.add_argument("--replay", type=Path, metavar="FILE", help="of requests, or of requests per minute")
    trace.add_argument("--speed", type=float, default=1.0, metavar="X", help="time runs X times as fast")
    trace.add_argument("--factor", type=float, default=1.0, metavar="X", help="X times as many requests")
    trace.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: 0)")
    trace.add_argument("--alone", action="store_true", help="without the autoscalers of others beside it")
    trace.add_argument("--report", type=Path, metavar="FILE", help="also write a page with figures")
    add_json(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    settings = _settings(options)
    if options.requests_per_s is not None:
        return _size(options, settings.planner)
    if options.replay is not None:
        return _replay(options, settings.planner)
    entries = asyncio.run(_watch(settings, options.looks, quiet=str(options.json) == "-"))
    write_json(options.json, entries)
    return 0 if entries else 1


def _settings(options: argparse.Namespace) -> PlannerProcessSettings:
    values = {} if options.settings is None else read_yaml(options.settings)
    source = "flags" if options.settings is None else str(options.settings)
    return parse(PlannerProcessSettings, override(values, options.set), source=source)


async def _watch(settings: PlannerProcessSettings, looks: int, *, quiet: bool) -> list[Entry]:
    """Look several times and print each decision; whatever the settings scale is only read."""
    from planner.process import open_loop

    seen: list[Entry] = []
    async with AsyncExitStack() as stack:
        loop = await open_loop(settings, stack, Meters(), is_dry=True)
        loop.on_look(seen.append)
        for place in range(looks):
            if place:
                await asyncio.sleep(settings.planner.look_s)
            before = len(seen)
            await loop.look()
            if not quiet:
                _print(seen[before:])
    if seen and not quiet:
        for line in seen[-1].decision.advice:
            print(f"advice: {line}")
    return seen


def _print(entries: list[Entry]) -> None:
    if not entries:
        print("nothing could be seen")
    for entry in entries:
        headline, *reasons = entry.decision.reasons
        print(headline)
        for line in (*reasons, *entry.outcome.left):
            print(f"  {line}")


def _replay(options: argparse.Namespace, settings: PlannerSettings) -> int:
    from planner.proof.command import replay_file

    report = replay_file(
        options.replay,
        settings,
        speed=options.speed,
        factor=options.factor,
        seed=options.seed,
        compares=not options.alone,
        page=options.report,
        progress=lambda name: print(f"{name} ...", file=sys.stderr, flush=True),
    )
    if not write_json(options.json, report.outcomes):
        print(report.table())
    return 0


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind needs."""

    kind: str
    prefill_workers: int
    decode_workers: int
    late_frac: float
    price_per_hour: float
    unreachable: tuple[str, ...]


def _size(options: argparse.Namespace, settings: PlannerSettings) -> int:
    plans = [_plan(options, settings, kind) for kind in settings.kinds]
    if write_json(options.json, plans):
        return 0
    rows = [
        (
            plan.kind,
            str(plan.prefill_workers),
            str(plan.decode_workers),
            f"{1.0 - plan.late_frac:.2%}",
            f"{plan.price_per_hour:g}",
        )
        for plan in plans
    ]
    for line in table(("kind", "prefill", "decode", "in time", "price/h"), rows):
        print(line)
    for plan in plans:
        for sentence in plan.unreachable:
            print(f"{plan.kind}: {sentence}")
    return 0


def _plan(options: argparse.Namespace, settings: PlannerSettings, kind: KindSettings) -> _Plan:
    for name in ("prompt_tokens", "output_tokens"):
        if getattr(options, name) is None or not getattr(options, name) > 0:
            key = f"--{name.replace('_', '-')}"
            raise ConfigurationInvalid(key=key, message=f"{key}: must be given and greater than 0 for a load")
    uncached = max(1.0, options.prompt_tokens - options.cached_tokens)
    load = ExpectedLoad(
        requests_per_s=options.requests_per_s,
        prompt_tokens=options.prompt_tokens,
        uncached_tokens=uncached,
        uncached_square_tokens=(1.0 + options.variation**2) * uncached**2,
        output_tokens=options.output_tokens,
        context_tokens=options.prompt_tokens + options.output_tokens / 2.0,
    )
    engine = Engine(
        performance=kind.model(),
        kv_tokens=kind.kv_tokens,
        sequences_max=kind.sequences_max,
        step_tokens_max=kind.step_tokens_max,
    )
    sizing = Sizing(engine, load, settings.targets.slo, spills=settings.spills)
    needs = sizing.needs(allowed_late_frac=1.0 - settings.targets.attainment_frac)
    return _Plan(
        kind=kind.name,
        prefill_workers=needs.prefill,
        decode_workers=needs.decode,
        late_frac=needs.late_frac,
        price_per_hour=needs.total * kind.price_per_hour,
        unreachable=sizing.unreachable,
    )
