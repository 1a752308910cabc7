"""Rows of `bench_planner` as tables per targets and start-up time.

    python -m tests.bench.planner_summary rows.json more.json

The first tells GPU-hours over the bound's and the share of requests within both targets; its last column is
the cheapest of all others with values chosen in hindsight, on this very load, that reaches 99 %. The second
tells of loads with a burst how long it was felt and how many requests were late in its first ten minutes.
The third tells the worst five minutes, and actions per hour. Of several files a later one's rows replace
those of an earlier one.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from planner.proof.baselines.tuning import BASELINES
from planner.proof.outcome import Outcome
from planner.proof.replaying import PLANNER
from tests.bench.planner_rows import GOAL_FRAC, Saved, chosen


def cost(one: Outcome) -> str:
    """Tell cost and attainment; in brackets where it misses the goal."""
    text = f"{one.ratio:.2f} · {100 * one.attained_frac:.1f} %"
    return text if one.attained_frac >= GOAL_FRAC else f"({text})"


def recovery(one: Outcome) -> str:
    """Tell how long a burst was felt, and the requests that it cost."""
    felt = "never" if one.recovery_s is None else f"{one.recovery_s:.0f} s"
    return f"{felt} · {one.lost_count or 0.0:,.0f}"


def unrest(one: Outcome) -> str:
    """Tell the worst five minutes, and actions per hour."""
    return f"{100 * one.worst_frac:.0f} % · {one.scale_events_per_h:.1f} · {one.flips_per_h:.1f}"


def hindsight(others: Sequence[Saved], key: str) -> str:
    """Tell the cheapest of the others that reaches the goal on a load."""
    good = [one.outcome for one in others if one.key == key and one.outcome.attained_frac >= GOAL_FRAC]
    if not good:
        return "none"
    best = min(good, key=lambda one: (one.ratio, one.scaler, one.values))
    return f"{best.ratio:.2f} {best.scaler}"


def summary(rows: Iterable[Saved]) -> str:
    """Write the tables of each pair of targets and each start-up time."""
    blocks: dict[tuple[float, float], list[Saved]] = {}
    for row in rows:
        blocks.setdefault((row.outcome.ttft_slo_s, row.outcome.startup_s), []).append(row)
    return "\n".join(line for block in blocks.values() for line in _tables(block))


def _tables(block: Sequence[Saved]) -> Iterator[str]:
    ours = [row for row in block if row.outcome.scaler == PLANNER]
    others = [row for row in block if row.outcome.scaler != PLANNER]
    names = list(BASELINES) if others else []
    runs = {row.key: [row.outcome, *(chosen(others, row.key, name) for name in names)] for row in ours}

    def beside(told: Callable[[Outcome], str], keys: Iterable[str]) -> Iterator[str]:
        yield from _head(["load", PLANNER, *names])
        for key in keys:
            yield _line([key, *map(told, runs[key])])

    one = block[0].outcome
    yield f"**{one.ttft_slo_s:g} s and {1000 * one.tpot_slo_s:g} ms, start-up {one.startup_s:g} s**\n"
    yield from _head(
        ["load", "bound, GPU-h", "foreseen", PLANNER, *names, *(["best in hindsight"] if others else [])]
    )
    for row in ours:
        foreseen = "" if row.foreseen_ratio is None else f"{row.foreseen_ratio:.2f}"
        best = [hindsight(others, row.key)] if others else []
        bound = f"{row.outcome.bound_gpu_h:,.2f}"
        yield _line([row.key, bound, foreseen, *map(cost, runs[row.key]), *best])
    bursts = [row.key for row in ours if row.outcome.lost_count is not None]
    if bursts:
        yield "\nThe burst is over after · requests late in its first ten minutes:\n"
        yield from beside(recovery, bursts)
    yield "\nWorst five minutes · scalings per hour · flips per hour:\n"
    yield from beside(unrest, runs)
    yield ""


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _line(names)
    yield "|" + "---|" * len(names)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Read, and print."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    command.add_argument("rows", type=Path, nargs="+")
    kept: dict[tuple[str, str, str, float, float], Saved] = {}
    for path in command.parse_args().rows:
        for row in msgspec.json.decode(path.read_bytes(), type=list[Saved]):
            one = row.outcome
            kept[row.key, one.scaler, one.values, one.ttft_slo_s, one.startup_s] = row
    print(summary(list(kept.values())))


if __name__ == "__main__":
    main()
