"""Baton's placement beside one pool and every fixed split, over many loads, in one configuration.

`make bench-placement ARGS="--conversations FILE --code FILE --parts loads"`, where the files are Mooncake's
conversation trace and Azure's code trace of 2023; what is not named is left out, and made workloads need no
file.
`--load others` runs eight further shapes, on which nothing had been chosen when they were made.
`--first N` keeps the first N requests of each load, `--speedup`, `--split` and `--load` choose, `--json FILE`
writes all outcomes. Each row ends with two verdicts: beside the better of one pool and the best split (that
with more requests whose every target is met), and beside the least TTFT p95 and the least ITL p99 of the two,
whoever has them. It ends with 0 whatever the verdicts are: they are for reading.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from services.domain.errors import ConfigurationInvalid
from services.replay.run import ReplaySettings, replay
from services.replay.trace_files import read_trace
from services.replay.traces import Trace
from services.replay.workloads import REQUESTS_COUNT, WORKLOADS, make_workload
from tests.bench.placement_rows import Outcome, heading, judge, line

TICK_S = 3.0
"""Arrivals of the conversation trace stand on ticks of so long."""
RECORDED = ("conversations", "conversations-spread", "code")
LOADS = (*RECORDED, "bursts", "long-outputs", "no-reuse", "shared-prefix")
"""What runs unless asked otherwise: placement was made with these in sight."""
OTHERS = tuple(name for name in sorted(WORKLOADS) if name not in LOADS)
"""Other shapes, by `--load others`: half an hour of one core more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One trace."""

    name: str
    trace: Trace
    spread_s: float = 0.0


def chosen_loads(options: argparse.Namespace) -> Iterator[Load]:
    """Read or make what was asked for; say what is left out for want of a file."""
    groups = [OTHERS if asked == "others" else (asked,) for asked in options.load]
    for name in chain.from_iterable(groups):
        path = {"code": options.code}.get(name, options.conversations)
        if name in WORKLOADS:
            yield Load(name=name, trace=make_workload(name, seed=options.seed, count=REQUESTS_COUNT))
        elif path is None:
            flag = "--code" if name == "code" else "--conversations"
            print(f"left out: {name} needs its trace, give it by {flag} FILE", file=sys.stderr)
        else:
            spread_s = TICK_S if name.endswith("spread") else 0.0
            yield Load(name=name, trace=read_trace(path), spread_s=spread_s)


def outcome(load: Load, policy: str, speedup: float, options: argparse.Namespace) -> Outcome:
    """Replay one load under one policy; `NAME:P` has P prefill workers."""
    name, _, prefill = policy.partition(":")
    settings = ReplaySettings(
        policy=name,
        workers=options.workers,
        speedup=speedup,
        timing=options.timing,
        prefill_workers=int(prefill) if prefill else None,
        spread_s=load.spread_s,
        first=options.first,
    )
    report, _cluster = replay(load.trace, settings)
    return Outcome(
        policy=policy,
        ttft_mean_ms=report.ttft_ms.mean,
        ttft_p95_ms=report.ttft_ms.p95,
        itl_mean_ms=report.itl_ms.mean,
        itl_p99_ms=report.itl_ms.p99,
        goodput_count=report.goodput_count,
        goodput_p99_count=report.goodput_p99_count,
        hit_frac=report.hit_frac,
        requests=report.requests,
    )


def main(options: argparse.Namespace) -> int:
    """Replay every load under every policy; returns the exit code."""
    if options.conversations is None and options.code is None and options.load is LOADS:
        print("skipped: needs a trace or --load, see --help")
        return 0
    others = ["dynamo-kv", *(f"dynamo-kv:{split}" for split in options.split)]
    try:
        loads = list(chosen_loads(options))
    except (ConfigurationInvalid, OSError) as error:
        print(f"bench-placement: {error}", file=sys.stderr)
        return 2
    rows = []
    print(heading())
    for load in loads:
        for speedup in options.speedup:
            ours = outcome(load, "baton", speedup, options)
            theirs = [outcome(load, policy, speedup, options) for policy in others]
            verdict = judge(ours, theirs)
            print(line(f"{load.name} {speedup:g}x", ours, theirs), flush=True)
            rows.append(
                {
                    "load": load.name,
                    "speedup": speedup,
                    "outcomes": [asdict(one) for one in (ours, *theirs)],
                    "verdict": asdict(verdict),
                    "holds": verdict.holds,
                    "holds_everywhere": verdict.holds_everywhere,
                }
            )
    held = sum(bool(row["holds"]) for row in rows)
    everywhere = sum(bool(row["holds_everywhere"]) for row in rows)
    print(f"\n{held} of {len(rows)} rows within 3 % of the better one, {everywhere} of the least of each")
    if options.json is not None:
        settings = {name: str(value) for name, value in sorted(vars(options).items())}
        options.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--conversations", type=Path, metavar="FILE", help="Mooncake's conversation trace")
    parser.add_argument("--code", type=Path, metavar="FILE", help="Azure's code trace of 2023")
    parser.add_argument("--load", nargs="+", choices=(*LOADS, *OTHERS, "others"), default=LOADS)
    parser.add_argument("--speedup", nargs="+", type=float, default=(1.0, 2.0, 3.0, 4.0))
    parser.add_argument("--split", nargs="*", type=int, default=(2, 3, 4, 5, 6), help="prefill workers")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N requests of each load")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--timing", default="dynamo-mocker", metavar="PRESET")
    parser.add_argument("--seed", type=int, default=0, help="of made workloads")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all outcomes and verdicts")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(parse()))
