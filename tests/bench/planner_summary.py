"""Rows of `bench_planner` as one table per targets and start-up time.

    python -m tests.bench.planner_summary rows.json more.json

A cell tells GPU-hours over the bound's and the share of requests within both targets. The last column is the
cheapest of all others with values chosen in hindsight, on this very load, that reaches 99 %. Of several files
a later one's rows replace those of an earlier one.
"""

import argparse
from pathlib import Path

import msgspec

from planner.proof.baselines.tuning import BASELINES
from planner.proof.outcome import Outcome
from planner.proof.replaying import PLANNER
from tests.bench.planner_rows import GOAL_FRAC, Saved, chosen


def cell(one: Outcome) -> str:
    """Tell one outcome; in brackets where it misses the goal."""
    text = f"{one.ratio:.2f} · {100 * one.attained_frac:.1f} %"
    return text if one.attained_frac >= GOAL_FRAC else f"({text})"


def hindsight(rows: list[Saved], key: str) -> str:
    """Tell the cheapest of the others that reaches the goal on a load."""
    good = [one.outcome for one in rows if one.key == key and one.outcome.attained_frac >= GOAL_FRAC]
    if not good:
        return "none"
    best = min(good, key=lambda one: (one.ratio, one.scaler, one.values))
    return f"{best.ratio:.2f} {best.scaler}"


def summary(rows: list[Saved]) -> str:
    """Write a table per targets and start-up time."""
    blocks: dict[tuple[float, float], list[Saved]] = {}
    for row in rows:
        blocks.setdefault((row.outcome.ttft_slo_s, row.outcome.startup_s), []).append(row)
    lines: list[str] = []
    for (ttft_s, startup_s), block in blocks.items():
        others = [row for row in block if row.outcome.scaler != PLANNER]
        names = list(BASELINES) if others else []
        tpot_ms = 1000 * block[0].outcome.tpot_slo_s
        lines += [f"**{ttft_s:g} s and {tpot_ms:g} ms, start-up {startup_s:g} s**", ""]
        ends = ["best in hindsight"] if others else []
        lines += [f"| load | bound, GPU-h | foreseen | {' | '.join([PLANNER, *names, *ends])} |"]
        lines += ["|" + "---|" * (len(names) + len(ends) + 4)]
        for row in block:
            if row.outcome.scaler == PLANNER:
                cells = [cell(row.outcome), *(cell(chosen(others, row.key, name)) for name in names)]
                if others:
                    cells.append(hindsight(others, row.key))
                foreseen = "" if row.foreseen_ratio is None else f"{row.foreseen_ratio:.2f}"
                cells = [row.key, f"{row.outcome.bound_gpu_h:,.2f}", foreseen, *cells]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


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
