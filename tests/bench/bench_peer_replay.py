"""Our replay beside the simulator of NVIDIA Dynamo 1.6.1: same trace, same engine, same two policies.

Run it with `python -m tests.bench.bench_peer_replay TRACE --peer-python PATH`, where PATH is the interpreter
of an environment into which `ai-dynamo-runtime==1.6.1` was installed, nothing else. It prints each measure
of both sides and how far ours is from theirs, and ends with 1 if a judged one is farther than the limit.
The peer breaks ties between workers by an unseeded draw, so its KV routing is run several times: the mean
is compared, and its own spread, (max - min) / mean, is printed beside it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.bench import peer_replay
from tests.bench.peer_replay import Replay

ROUTERS = {"round-robin": "round_robin", "dynamo-kv": "kv_router"}
"""Our name of a policy, and the peer's."""
TTFT_SLO_S = 2.0
ITL_SLO_S = 0.025


class Measure(NamedTuple):
    """A number that both sides give."""

    name: str
    ours: tuple[str, ...]
    """Where it is in our JSON."""
    peer: str
    """Its field in the peer's summary."""
    is_judged: bool = True


MEASURES = (
    Measure("TTFT mean, ms", ("ttft_ms", "mean"), "mean_ttft_ms"),
    Measure("TTFT p95, ms", ("ttft_ms", "p95"), "p95_ttft_ms"),
    Measure("ITL mean, ms", ("itl_ms", "mean"), "mean_itl_ms"),
    Measure("ITL p99, ms", ("itl_ms", "p99"), "p99_itl_ms"),
    Measure("TPOT mean, ms", ("tpot_ms", "mean"), "mean_tpot_ms"),
    # Of the first admission; the other of its ratios counts what a preempted request finds again as well.
    Measure("hit rate", ("hit_frac",), "first_admission_prefix_cache_reused_ratio"),
    # A count of requests on one side of a line: where many stand near it, small changes move it far.
    Measure("goodput, requests", ("goodput_count",), "goodput_completed_requests", is_judged=False),
)


class Difference(NamedTuple):
    """One measure of one run, on both sides."""

    measure: Measure
    peer: float
    spread_frac: float
    """Of the peer's rounds: (max - min) / mean."""
    ours: float

    @property
    def frac(self) -> float:
        """How far ours is from the peer's, by the peer's."""
        return self.ours / self.peer - 1 if self.peer else float(self.ours != self.peer)


def number(record: object, path: Sequence[str]) -> float:
    """Find a number in parsed JSON."""
    for key in path:
        if not isinstance(record, Mapping):
            raise TypeError(f"no {key!r}: not an object")
        record = record[key]
    if not isinstance(record, int | float):
        raise TypeError(f"{'.'.join(path)} is no number")
    return float(record)


def peer_summary(python: Path, replay: Replay) -> object:
    """Run the peer in its own environment."""
    command = [str(python), peer_replay.__file__, json.dumps(replay._asdict())]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def our_summary(replay: Replay, policy: str) -> object:
    """Run `baton replay`."""
    with TemporaryDirectory() as folder:
        answer = Path(folder) / "ours.json"
        command = [sys.executable, "-m", "services.cli", "replay", replay.trace]
        command += ["--timing", "dynamo-mocker", "--policy", policy, "--json", str(answer)]
        command += ["--workers", str(replay.workers), "--speedup", str(replay.speedup)]
        command += ["--ttft-slo-s", str(TTFT_SLO_S), "--itl-slo-s", str(ITL_SLO_S)]
        if replay.prefill_workers:
            command += ["--prefill-workers", str(replay.prefill_workers)]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return json.loads(answer.read_text())


def compare(python: Path, replay: Replay, policy: str, rounds: int) -> Iterator[Difference]:
    """Run both sides; the peer so many times as its ties need."""
    ours = our_summary(replay, policy)
    times = rounds if replay.router == "kv_router" else 1
    peers = [peer_summary(python, replay) for _ in range(times)]
    for measure in MEASURES:
        values = [number(peer, (measure.peer,)) for peer in peers]
        mean = fmean(values)
        spread = (max(values) - min(values)) / mean if mean else 0.0
        yield Difference(measure, mean, spread, number(ours, measure.ours))


def main(options: argparse.Namespace) -> int:
    """Compare every policy at every load; returns the exit code."""
    if options.trace is None or options.peer_python is None:
        print("skipped: needs a trace and --peer-python, see --help")
        return 0
    farthest = 0.0
    for policy in options.policy:
        for speedup in options.speedup:
            replay = Replay(
                trace=str(options.trace),
                router=ROUTERS[policy],
                workers=options.workers,
                prefill_workers=options.prefill_workers,
                speedup=speedup,
                ttft_slo_ms=TTFT_SLO_S * 1e3,
                itl_slo_ms=ITL_SLO_S * 1e3,
            )
            split = f", {replay.prefill_workers} prefill" if replay.prefill_workers else ""
            print(f"{policy}, {speedup:g}x, {replay.workers} workers{split}")
            print(f"  {'':<18} {'peer':>10} {'ours':>10} {'difference':>11} {'peer spread':>12}")
            for found in compare(options.peer_python, replay, policy, options.rounds):
                name, places = found.measure.name, 4 if found.peer < 1 else 2
                print(
                    f"  {name:<18} {found.peer:>10.{places}f} {found.ours:>10.{places}f}"
                    f" {found.frac:>+10.2%} {found.spread_frac:>12.2%}",
                    flush=True,
                )
                if found.measure.is_judged:
                    farthest = max(farthest, abs(found.frac))
    print(f"farthest judged difference {farthest:.2%}, limit {options.limit_frac:.0%}")
    return int(farthest > options.limit_frac)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="?", help="a file in the public Mooncake format")
    parser.add_argument("--peer-python", type=Path, help="interpreter that has the peer")
    parser.add_argument("--policy", nargs="+", choices=tuple(ROUTERS), default=tuple(ROUTERS))
    parser.add_argument("--speedup", nargs="+", type=float, default=(1.0, 2.0, 3.0, 4.0))
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--prefill-workers", type=int, default=0, help="0: every worker does both phases")
    parser.add_argument("--rounds", type=int, default=3, help="runs of the peer where it draws lots")
    parser.add_argument("--limit-frac", type=float, default=0.05)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(parse()))
