"""Reports side by side: one row per policy, the same for the terminal and for the page.

Comes in: reports of one trace. Goes out: names, headings, cells as text.
Invariant: a row has a cell per column. Not here: how they are laid out (`services.cli`, `report_page`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.replay.run import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One number of every report."""

    group: str
    """Heading that neighbours share; empty: none."""
    name: str
    value: Callable[[Report], float]
    pattern: str
    """Of `format`."""
    is_less_better: bool | None = None
    """None: neither is better."""

    def cell(self, report: Report) -> str:
        """Write the number."""
        return format(self.value(report), self.pattern)


COLUMNS = (
    Column(
        group="TTFT, ms", name="mean", value=lambda r: r.ttft_ms.mean, pattern=",.1f", is_less_better=True
    ),
    Column(group="TTFT, ms", name="p95", value=lambda r: r.ttft_ms.p95, pattern=",.1f", is_less_better=True),
    Column(group="TTFT, ms", name="p99", value=lambda r: r.ttft_ms.p99, pattern=",.1f", is_less_better=True),
    Column(group="ITL, ms", name="mean", value=lambda r: r.itl_ms.mean, pattern=",.1f", is_less_better=True),
    Column(group="ITL, ms", name="p95", value=lambda r: r.itl_ms.p95, pattern=",.1f", is_less_better=True),
    Column(group="ITL, ms", name="p99", value=lambda r: r.itl_ms.p99, pattern=",.1f", is_less_better=True),
    Column(
        group="TPOT, ms", name="mean", value=lambda r: r.tpot_ms.mean, pattern=",.1f", is_less_better=True
    ),
    Column(
        group="goodput", name="mean ITL", value=lambda r: r.goodput_count, pattern=",d", is_less_better=False
    ),
    Column(
        group="goodput",
        name="p99 ITL",
        value=lambda r: r.goodput_p99_count,
        pattern=",d",
        is_less_better=False,
    ),
    Column(group="", name="refused", value=lambda r: r.refused_count, pattern=",d"),
    Column(group="", name="hit", value=lambda r: r.hit_frac, pattern=".3f", is_less_better=False),
    Column(group="", name="busy", value=lambda r: r.utilisation_frac, pattern=".2f"),
)
"""What is compared; goodput by each request's mean gap, and by the 99th percentile of its gaps."""


def name_of(report: Report) -> str:
    """Name a policy, with its split if it has one."""
    settings = report.settings
    if settings.prefill_workers is None:
        return settings.policy
    return f"{settings.policy} {settings.prefill_workers}P{settings.workers - settings.prefill_workers}D"


def headline(reports: Sequence[Report]) -> str:
    """Say in one line what all reports share."""
    head = reports[0]
    settings = head.settings
    return (
        f"{head.trace}: {head.requests:,} requests at {settings.speedup:g}x, {settings.workers} workers, "
        f"{settings.timing}; targets TTFT {settings.ttft_slo_s:g} s, ITL {settings.itl_slo_s * 1e3:g} ms"
    )


def remarks(reports: Sequence[Report]) -> list[str]:
    """Say what a row cannot: why requests were refused."""
    return [
        f"{name_of(report)}: {count:,} requests refused: {reason}"
        for report in reports
        for reason, count in report.refused.items()
    ]


def best(column: Column, reports: Sequence[Report]) -> float | None:
    """Find the best number of a column; None where none is better."""
    if column.is_less_better is None:
        return None
    return (min if column.is_less_better else max)(column.value(report) for report in reports)
