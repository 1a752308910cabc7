"""Everything that is measured of placement, one part after another.

    make bench-placement ARGS="--conversations FILE --code FILE --peer-python PATH --out DIR"
    make bench-placement ARGS="--conversations FILE --parts simulator alone"
    make bench-placement ARGS="--load bursts --speedup 4 --first 600"

Parts:
%(parts)s

FILE are Mooncake's conversation trace and Azure's code trace of 2023, PATH is the interpreter of an
environment of its own that has the peer's package (`ai-dynamo-runtime==1.6.1`). What needs a file that was
not given is left out; a whole part is named. --out DIR keeps each part's output in DIR/PART.txt. Any other
option is one of `tests.bench.bench_placement`: it goes to `loads`, which then runs by itself unless --parts
is given. Ends with 1 if a part failed; what a part finds is for reading. Ctrl-C stops the part under way.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

INTERRUPTED = 130
"""Exit code of a command that a person stopped."""
STOP_S = 10.0
"""Time that a stopped part has to end by itself."""

Command = tuple[str, ...]
"""Name of a benchmark and its arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part."""

    about: str
    commands: Callable[[argparse.Namespace], Iterator[Command]]
    minutes: str
    """Of one core that is otherwise idle."""


def _loads(given: argparse.Namespace) -> Iterator[Command]:
    files = [("--conversations", given.conversations), ("--code", given.code)]
    yield "bench_placement", *(text for flag, path in files if path for text in (flag, path)), *given.others


def _shapes(_: argparse.Namespace) -> Iterator[Command]:
    yield "bench_placement", "--load", "others"


def _simulator(given: argparse.Namespace) -> Iterator[Command]:
    if given.conversations and given.peer_python:
        yield "bench_peer_replay", given.conversations, "--peer-python", given.peer_python


def _alone(given: argparse.Namespace) -> Iterator[Command]:
    if given.conversations:
        for only, rate in (("8", "2.5"), ("32", "3.05")):
            yield "bench_router_alone", given.conversations, "--first", "4000", "--only", only, "--rate", rate
    yield "bench_router_alone", "agents", "--first", "4000", "--only", "8", "--rate", "1.86"


def _decision(_: argparse.Namespace) -> Iterator[Command]:
    yield ("bench_router",)


def _index(given: argparse.Namespace) -> Iterator[Command]:
    yield "bench_index", *(("--peer-python", given.peer_python) if given.peer_python else ())


def _soft(given: argparse.Namespace) -> Iterator[Command]:
    splits = ("--splits", "3", "4", "5", "6")
    if given.conversations:
        for speedup in ("1", "3"):
            skip = ("--skip", "2000", "--first", "600")
            yield "bench_soft_roles", given.conversations, *skip, "--speedup", speedup, *splits
    if given.code:
        skip = ("--skip", "500", "--first", "1500")
        yield "bench_soft_roles", given.code, *skip, "--speedup", "20", *splits


def _real(_: argparse.Namespace) -> Iterator[Command]:
    yield "bench_soft_roles_live", "--seconds", "20"


PARTS = {
    "loads": Part(about="one pool and every split, by replay", commands=_loads, minutes="20"),
    "shapes": Part(about="the same on eight further shapes of load", commands=_shapes, minutes="30"),
    "simulator": Part(about="the replay beside the peer's own", commands=_simulator, minutes="15"),
    "alone": Part(about="the router alone, at the goal's rates", commands=_alone, minutes="5"),
    "decision": Part(about="how long a decision takes", commands=_decision, minutes="1"),
    "index": Part(about="the prefix index, beside the peer's", commands=_index, minutes="1"),
    "soft": Part(
        about="soft roles beside splits, real shells on a virtual clock", commands=_soft, minutes="10"
    ),
    "real": Part(about="soft roles beside a split, on real engines", commands=_real, minutes="4"),
}


def run_command(command: Command, out: TextIO | None) -> int:
    """Run a benchmark; what it prints goes on, and into a file; returns its exit code."""
    name, *arguments = command
    words = [sys.executable, "-m", f"tests.bench.{name}", *arguments]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                if out is not None:
                    out.write(line)
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def run_part(name: str, given: argparse.Namespace) -> str:
    """Run one part; returns how it ended."""
    commands = list(PARTS[name].commands(given))
    if not commands:
        return "left out: it needs a file that was not given"
    out = None if given.out is None else (given.out / f"{name}.txt").open("w", encoding="utf-8")
    began_s = time.monotonic()
    try:
        codes = [run_command(command, out) for command in commands]
    finally:
        if out is not None:
            out.close()
    took = f"{time.monotonic() - began_s:.0f} s"
    bad = [code for code in codes if code]
    return f"failed with {bad[0]} after {took}" if bad else f"done in {took}"


def main(given: argparse.Namespace) -> int:
    """Run what was asked for; returns the exit code."""
    names = given.parts or (["loads"] if given.others else list(PARTS))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    ended = {}
    try:
        for name in names:
            print(f"\n== {name}: {PARTS[name].about}, some {PARTS[name].minutes} minutes", flush=True)
            ended[name] = run_part(name, given)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return INTERRUPTED
    print("\n" + "\n".join(f"{name:10} {how}" for name, how in ended.items()))
    return int(any(how.startswith("failed") for how in ended.values()))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    listed = "\n".join(f"  {name:10} {part.about}, {part.minutes} minutes" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="make bench-placement",
        description=(__doc__ or "") % {"parts": listed},
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--conversations", metavar="FILE", help="Mooncake's conversation trace")
    parser.add_argument("--code", metavar="FILE", help="Azure's code trace of 2023")
    parser.add_argument("--peer-python", metavar="PATH", help="interpreter that has the peer")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), help="only these")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to keep what is printed")
    given, others = parser.parse_known_args(arguments)
    if others and "loads" not in (given.parts or ("loads",)):
        parser.error(f"{' '.join(others)}: an option of the part loads, which is not among --parts")
    given.others = others
    return given


if __name__ == "__main__":
    sys.exit(main(parse()))
