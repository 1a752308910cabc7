"""The comparison of policies as one page that needs nothing else: HTML with its own style and figures.

Comes in: reports of one trace at one load. Goes out: HTML text.
Invariants: no script, nothing fetched; every name from outside is escaped; all settings used are on it.
Not here: how figures are drawn (`figures`), what is compared (`comparison`), colours (`report_style`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from html import escape

from services.replay.comparison import COLUMNS, best, headline, name_of, remarks
from services.replay.figures import BarRow, Series, bars, courses, distributions, mark, stacks
from services.replay.report_style import STYLE
from services.replay.run import Report


def render(reports: Sequence[Report]) -> str:
    """Write the page.

    Args:
        reports: of the same trace, at least one.
    """
    head, names = reports[0], [name_of(report) for report in reports]
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Replay of {escape(head.trace)}</title><style>{STYLE}</style></head><body>",
        f"<h1>Replay of {escape(head.trace)}</h1>",
        f"<p>{escape(headline(reports))}.</p>",
        '<p class="soft">Simulated on a virtual clock. Marks in figures say what they are if pointed at.</p>',
        *_comparison(reports),
        *_distributions(reports, names),
        *_shares(reports, names),
        *_over_time(reports, names),
        *_settings(reports, names),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _comparison(reports: Sequence[Report]) -> Iterator[str]:
    yield "<h2>All policies</h2>"
    yield (
        '<p class="soft">TTFT: arrival to first token. ITL: all gaps between tokens, of all requests. TPOT: '
        "mean gap of each request. Goodput: requests whose TTFT is within its target, and whose mean gap, or "
        "99th percentile of gaps, is within the ITL target. Hit: prompt tokens that were cached. Busy: time "
        "in steps. Times are of requests that were served. Bold: best.</p>"
    )
    yield '<div class="wide"><table><thead><tr><th></th>'
    groups = [column.group for column in COLUMNS]
    at = 0
    while at < len(groups):
        span = 1
        while groups[at] and at + span < len(groups) and groups[at + span] == groups[at]:
            span += 1
        yield f'<th class="group" colspan="{span}">{escape(groups[at])}</th>'
        at += span
    yield "</tr><tr><th>policy</th>"
    yield "".join(f"<th>{escape(column.name)}</th>" for column in COLUMNS) + "</tr></thead><tbody>"
    for report in reports:
        yield f"<tr><th>{escape(name_of(report))}</th>"
        for column in COLUMNS:
            is_best = len(reports) > 1 and column.value(report) == best(column, reports)
            mood = ' class="best"' if is_best else ""
            yield f"<td{mood}>{escape(column.cell(report))}</td>"
        yield "</tr>"
    yield "</tbody></table></div>"
    for remark in remarks(reports):
        yield f'<p class="soft">{escape(remark)}</p>'


def _key(names: Sequence[str]) -> str:
    swatch = '<svg viewBox="0 0 26 8"><path class="line {}" d="M0 4H26"/></svg>'
    entries = (f"<li>{swatch.format(mark(i))}{escape(name)}</li>" for i, name in enumerate(names))
    return f'<ul class="key">{"".join(entries)}</ul>'


def _distributions(reports: Sequence[Report], names: Sequence[str]) -> Iterator[str]:
    target = reports[0].settings
    itl_ms, ttft_ms = target.itl_slo_s * 1e3, target.ttft_slo_s * 1e3
    for heading, words, aim, curves in (
        (
            "TTFT",
            "Time from arrival to the first token, per request.",
            ttft_ms,
            [r.curves.ttft_ms for r in reports],
        ),
        ("TPOT", "Mean time between the tokens of a request.", itl_ms, [r.curves.tpot_ms for r in reports]),
        (
            "ITL",
            "Every time between two tokens of a request, of all requests.",
            itl_ms,
            [r.curves.itl_ms for r in reports],
        ),
    ):
        series = [Series(name=name, values=curve) for name, curve in zip(names, curves, strict=True)]
        yield f'<h2>{heading}</h2><p class="soft">{words}</p>'
        yield _key(names)
        yield distributions(f"Distribution of {heading}", series, target=aim)


def _shares(reports: Sequence[Report], names: Sequence[str]) -> Iterator[str]:
    yield (
        '<h2>Goodput</h2><p class="soft">Requests within both targets; dark: by the mean gap of each, '
        "pale: by its 99th percentile of gaps.</p>"
    )
    yield bars(
        "Goodput",
        [
            BarRow(
                name=name,
                bars=[
                    (count / max(report.requests, 1), f"{count:,} ({count / max(report.requests, 1):.3f})")
                    for count in (report.goodput_count, report.goodput_p99_count)
                ],
            )
            for name, report in zip(names, reports, strict=True)
        ],
    )
    most = max((report.hit_frac for report in reports), default=0.0) or 1.0
    yield (
        '<h2>Cache hits</h2><p class="soft">Prompt tokens found cached where the prompt was computed, or '
        "fetched there, over all prompt tokens; the longest bar is the best policy, not all tokens.</p>"
    )
    yield bars(
        "Cache hits",
        [
            BarRow(name=name, bars=[(report.hit_frac / most, f"{report.hit_frac:.3f}")])
            for name, report in zip(names, reports, strict=True)
        ],
    )


def _over_time(reports: Sequence[Report], names: Sequence[str]) -> Iterator[str]:
    yield (
        '<h2>Utilisation</h2><p class="soft">Each worker\'s time in steps, of the whole replay; dark: what '
        "prefill added to steps.</p>"
    )
    yield stacks(
        "Utilisation of every worker",
        [
            (name, [(use.prefill_frac, use.busy_frac) for use in report.utilisation])
            for name, report in zip(names, reports, strict=True)
        ],
    )
    yield (
        '<h2>Queue</h2><p class="soft">Requests whose prompt is not computed: the most in each part of the '
        "time, on one logarithmic scale.</p>"
    )
    yield courses(
        "Queue over time",
        [
            Series(name=name, values=[point.waiting_max_count for point in report.queue])
            for name, report in zip(names, reports, strict=True)
        ],
        ends_s=[report.duration_s for report in reports],
    )


def _settings(reports: Sequence[Report], names: Sequence[str]) -> Iterator[str]:
    tables = [
        {
            **dict(_flat("", report.settings)),
            **dict(_flat("engine.", report.engine)),
            **dict(_flat("mechanisms.", report.mechanisms)),
        }
        for report in reports
    ]
    yield "<h2>Settings</h2>"
    yield '<p class="soft">Everything that was used; first what all policies share.</p>'
    keys = list(dict.fromkeys(key for table in tables for key in table))
    shared = {key for key in keys if len({table.get(key, "") for table in tables}) == 1}
    yield '<div class="wide"><table class="words"><tbody>'
    yield from (_row(key, [tables[0][key]]) for key in keys if key in shared)
    yield "</tbody></table></div>"
    own = [key for key in keys if key not in shared and key != "policy"]
    if own:
        yield '<div class="wide"><table class="words"><thead><tr><th>policy</th>'
        yield "".join(f"<th>{escape(key)}</th>" for key in own) + "</tr></thead><tbody>"
        yield from (
            _row(name, [table.get(key, "") for key in own]) for name, table in zip(names, tables, strict=True)
        )
        yield "</tbody></table></div>"
    took = ", ".join(f"{name} {report.took_s:.1f} s" for name, report in zip(names, reports, strict=True))
    yield f'<p class="soft">Time the replays took: {escape(took)}.</p>'


def _row(name: str, cells: Sequence[str]) -> str:
    return f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    """List the fields of a value, those of its parts too, by dotted name."""
    if is_dataclass(value):
        for field in fields(value):
            inner = getattr(value, field.name)
            if is_dataclass(inner) or isinstance(inner, Mapping):
                yield from _flat(f"{prefix}{field.name}.", inner)
            else:
                yield f"{prefix}{field.name}", _words(inner)
    elif isinstance(value, Mapping):
        yield from ((f"{prefix}{key}", _words(inner)) for key, inner in value.items())


def _words(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.8g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
