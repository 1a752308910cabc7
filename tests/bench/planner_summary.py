"""Rows of `bench_planner` as one table per targets and start-up time.

    python -m tests.bench.planner_summary rows.json

A cell tells GPU-hours over the bound's and the share of requests within both targets. The last column is the
cheapest of all others with values chosen in hindsight, on this very load, that reaches 99 %.
"""

import argparse
from pathlib import Path

import msgspec

from planner.proof.baselines.tuning import BASELINES
from planner.proof.outcome import Outcome
from planner.proof.replaying import PLANNER
from tests.bench.bench_planner import GOAL_FRAC, Saved, chosen


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
        lines += [f"| load | bound, GPU-h | {' | '.join([PLANNER, *names, 'best in hindsight'])} |"]
        lines += ["|" + "---|" * (len(names) + 4)]
        for row in block:
            if row.outcome.scaler == PLANNER:
                cells = [cell(row.outcome), *(cell(chosen(others, row.key, name)) for name in names)]
                cells.append(hindsight(others, row.key) if others else "")
                lines.append(f"| {row.key} | {row.outcome.bound_gpu_h:,.2f} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Read, and print."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    command.add_argument("rows", type=Path)
    print(summary(msgspec.json.decode(command.parse_args().rows.read_bytes(), type=list[Saved])))


if __name__ == "__main__":
    main()
