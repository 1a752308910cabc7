"""Outcomes as a table of text.

Comes in: outcomes. Goes out: lines for a terminal or a page. Not here: numbers (`outcome`).
"""

from collections.abc import Sequence

from planner.proof.outcome import Outcome

HEADER = (
    "scaler", "GPU-h", "x bound", "in time", "worst 5 min", "flips/h", "scalings/h", "recovery", "lost"
)  # fmt: skip


def rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Tell each outcome in cells, in the order of `HEADER`."""
    return [
        (
            one.scaler + (f" ({one.values})" if one.values else ""),
            f"{one.gpu_h:,.1f}",
            f"{one.ratio:.3f}",
            f"{100 * one.attained_frac:.2f}%",
            f"{100 * one.worst_frac:.1f}%",
            f"{one.flips_per_h:.1f}",
            f"{one.scale_events_per_h:.1f}",
            "" if one.recovery_s is None else f"{one.recovery_s:.0f} s",
            "" if one.lost_count is None else f"{one.lost_count:,.0f}",
        )
        for one in outcomes
    ]


def table(outcomes: Sequence[Outcome]) -> str:
    """Draw a table for a terminal, one block per load, targets and start-up."""
    blocks: dict[str, list[Outcome]] = {}
    for one in outcomes:
        blocks.setdefault(title(one), []).append(one)
    cells = [HEADER, *rows(outcomes)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    lines = []
    for name, block in blocks.items():
        lines += [name, _line(HEADER, widths), _line(tuple("-" * width for width in widths), widths)]
        lines += [_line(row, widths) for row in rows(block)]
        lines.append("")
    return "\n".join(lines)


def title(one: Outcome) -> str:
    """Name what an outcome is of: load, targets, start-up, bound."""
    return (
        f"{one.load}; TTFT {one.ttft_slo_s:g} s, TPOT {1000 * one.tpot_slo_s:g} ms; start-up "
        f"{one.startup_s:g} s; bound {one.bound_gpu_h:,.1f} GPU-h; {100 * one.possible_frac:.1f}% possible"
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if place == 0 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
