"""Goodput when more is asked than can be done: the cluster in one event loop, on a virtual clock.

Run it with `python -m tests.bench.bench_overload [--figure FILE]`. It measures what the cluster can do
when nothing is refused and nobody hurries, then offers 0.5 to 5 times of that, with early rejection and
without it, and prints one table. Times are virtual: equal code gives equal tables on any machine.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from services.engine.simulated.settings import SimulatedSettings
from tests.bench.chart import Line, draw
from tests.bench.overload import Fleet, Load, Outcome, measure_capacity, percentile, play

FACTORS = (0.5, 1.0, 2.0, 3.0, 5.0)
FLEET = Fleet(prefill=2, decode=2, engine=SimulatedSettings(eos_every_tokens=50))
LOAD = Load(rate_per_s=1.0, seconds=30.0, warm_up_s=30.0, output_tokens_max=150)
HEAD = (
    "| load | offered/s | in time/s | goodput/s | refused | given up | lost | TTFT p50, p99 | refusal p99 | "
    "queue p99 | tokens wasted |"
)


def row(factor: float, outcome: Outcome) -> str:
    """One line of the table."""
    offered = sum(outcome.offered.values())
    refused = outcome.refused_count()
    late = outcome.ended["deadline_exceeded"]
    ttft = [s for of_class in outcome.waits_s.values() for s in of_class]
    cells = (
        f"{factor:g}x",
        f"{offered / outcome.seconds:.1f}",
        f"{outcome.in_time_per_s():.1f}",
        f"{outcome.goodput_per_s():.1f}",
        f"{refused}",
        f"{late}",
        f"{offered - refused - late - outcome.ended['ok']}",
        f"{percentile(ttft, 0.5):.2f}, {percentile(ttft, 0.99):.2f} s",
        f"{percentile(outcome.refusals_s, 0.99):.2f} s",
        f"{percentile(outcome.queues, 0.99):.0f}",
        f"{outcome.wasted_tokens}",
    )
    return "| " + " | ".join(cells) + " |"


def sweep(capacity_per_s: float, fleet: Fleet) -> Iterator[tuple[float, Outcome]]:
    """Offer every load."""
    for factor in FACTORS:
        outcome = play(replace(LOAD, rate_per_s=factor * capacity_per_s), fleet)
        print(row(factor, outcome), flush=True)
        yield factor, outcome


def show_classes(capacity_per_s: float) -> None:
    """Print how interactive and batch work share three times the capacity."""
    load = replace(LOAD, rate_per_s=3 * capacity_per_s, batch_frac=0.3)
    outcome = play(load, FLEET)
    print("\n3x, 30 % of it batch work (priority 1, deadline 60 s):")
    print("| class | offered/s | in time/s | TTFT p50, p99 |\n|---|---|---|---|")
    for name, offered in sorted(outcome.offered.items()):
        ttft = outcome.waits_s.get(name, [])
        print(
            f"| {name} | {offered / outcome.seconds:.1f} | {outcome.in_time[name] / outcome.seconds:.1f} | "
            f"{percentile(ttft, 0.5):.2f}, {percentile(ttft, 0.99):.2f} s |"
        )


def main() -> None:
    """Measure everything once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--figure", type=Path, help="write the curves as SVG")
    figure: Path | None = parser.parse_args().figure
    capacity_per_s = measure_capacity(LOAD, FLEET)
    print(f"capacity, nothing refused and nobody in a hurry: {capacity_per_s:.1f} requests/s")
    lines: list[Line] = []
    for name, early in (("early rejection", True), ("without it", False)):
        print(f"\n{name}:\n{HEAD}\n" + "|---" * (HEAD.count("|") - 1) + "|")
        router = msgspec.structs.replace(FLEET.router, early_rejection=early)
        curve = list(sweep(capacity_per_s, replace(FLEET, router=router)))
        lines.append(
            Line(name=f"in time, {name}", points=[(f, o.in_time_per_s()) for f, o in curve], dashed=not early)
        )
        lines.append(
            Line(name=f"goodput, {name}", points=[(f, o.goodput_per_s()) for f, o in curve], dashed=not early)
        )
    show_classes(capacity_per_s)
    if figure is not None:
        figure.parent.mkdir(parents=True, exist_ok=True)
        text = draw("Answers per second under overload (simulated)", "offered load, x capacity", "1/s", lines)
        figure.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
