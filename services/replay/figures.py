"""Figures as SVG text, for a page that colours them: no library, the same bytes from the same numbers.

Comes in: named series. Goes out: SVG whose lines and bars have classes (`c0` to `c7` by series, then dashed,
then dotted), whose text takes the page's colour. What a mark means is also its `<title>`, shown on hover.
Not here: what the numbers mean, colours (`report_page`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLOURS_COUNT = 8
WIDTH = 880
LABEL_WIDTH = 190
"""Left of bars."""
TAIL_BEND = 0.4
"""Of the scale of shares in a distribution: 1 is even, less opens its upper end; at 0.4 p95 is at 0.7."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Named numbers."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BarRow:
    """One named bar, or several that belong together, each from 0 to 1 with a label."""

    name: str
    bars: Sequence[tuple[float, str]]


def mark(index: int) -> str:
    """Name the classes of a series' marks."""
    strokes = ("", " dashed", " dotted")
    return f"c{index % COLOURS_COUNT}{strokes[index // COLOURS_COUNT % len(strokes)]}"


def distributions(title: str, series: Sequence[Series], *, target: float | None, height: int = 330) -> str:
    """Draw which share of values is at most so large; both scales give room to the slowest.

    Args:
        title: for those who do not see it.
        series: values in order, in ms, with the same share of all between two neighbours.
        target: where to draw a line across; None: nowhere.
        height: of the figure, in pixels at full width.
    """
    positive = [max(value, 1e-3) for one in series for value in one.values[1:]]
    if not positive:
        return ""
    low, high = _decades(min(positive), max(positive), target)
    right, bottom = WIDTH - _RIGHT, height - _BOTTOM

    def across(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low)
        return _LEFT + (right - _LEFT) * min(share, 1.0)

    def up(share: float) -> float:
        return bottom - (bottom - _TOP) * (1.0 - math.pow(1.0 - share, TAIL_BEND))

    parts = [_begin(title, height)]
    for tick in _ticks(low, high):
        x = across(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
        parts.append(_text(x, bottom + 18, f"{tick:,g}", "middle"))
    for percent in (0, 25, 50, 75, 90, 95, 99, 100):
        y = up(percent / 100)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"p{percent}", "end"))
    parts.append(_text((_LEFT + right) / 2, height - 6, "ms, on a logarithmic scale", "middle"))
    if target is not None and low <= target <= high:
        x = across(target)
        parts.append(
            f'<path class="target" d="M{x:.1f} {_TOP}V{bottom}"><title>target: {target:,g} ms</title></path>'
        )
        parts.append(_text(x - 5, bottom - 8, f"target {target:,g}", "end"))
    for index, one in enumerate(series):
        if not one.values:
            continue
        last = len(one.values) - 1
        points = "L".join(
            f"{across(value):.1f} {up(place / last):.1f}" for place, value in enumerate(one.values)
        )
        parts.append(
            f'<path class="line {mark(index)}" d="M{points}"><title>{escape(one.name)}</title></path>'
        )
    return "\n".join([*parts, "</svg>"])


def bars(title: str, rows: Sequence[BarRow]) -> str:
    """Draw bars under each other, those of one row close together, the second and later ones paler."""
    thick, gap = 15, 12
    height = 8 + sum(thick * len(row.bars) + gap for row in rows)
    room = WIDTH - LABEL_WIDTH - 170
    parts, y = [_begin(title, height)], 6.0
    for index, row in enumerate(rows):
        parts.append(_text(LABEL_WIDTH - 10, y + thick * len(row.bars) / 2 + 4, row.name, "end"))
        for place, (share, label) in enumerate(row.bars):
            length = room * min(max(share, 0.0), 1.0)
            pale = " pale" if place else ""
            parts.append(
                f'<rect class="bar c{index % COLOURS_COUNT}{pale}" x="{LABEL_WIDTH}" y="{y:.1f}" '
                f'width="{length:.1f}" height="{thick - 2}" rx="2"><title>{escape(row.name)}: '
                f"{escape(label)}</title></rect>"
            )
            parts.append(_text(LABEL_WIDTH + length + 8, y + thick - 4, label, "start"))
            y += thick
        y += gap
    return "\n".join([*parts, "</svg>"])


def stacks(title: str, rows: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> str:
    """Draw a row of upright bars per name, each of two shares of one: the lower part, and all of it.

    Args:
        title: for those who do not see it.
        rows: a name, and for each bar (part, whole), both in [0, 1].
    """
    tall, gap = 40, 14
    height = 24 + len(rows) * (tall + gap)
    room = WIDTH - LABEL_WIDTH - 16
    parts = [_begin(title, height)]
    for index, (name, pairs) in enumerate(rows):
        bottom = 6 + tall + index * (tall + gap)
        parts.append(_text(LABEL_WIDTH - 10, bottom - tall / 2 + 4, name, "end"))
        parts.append(
            f'<path class="grid" d="M{LABEL_WIDTH} {bottom}h{room}M{LABEL_WIDTH} {bottom - tall}h{room}"/>'
        )
        each = room / max(len(pairs), 1)
        thick = max(each - 6, each * 0.7)
        for worker, (part, whole) in enumerate(pairs):
            x, told = (
                LABEL_WIDTH + worker * each + 2,
                f"{name}, worker {worker}: busy {whole:.2f}, prefill {part:.2f}",
            )
            for share, pale, below in ((part, "", 0.0), (whole - part, " pale", part)):
                size = tall * max(share, 0.0)
                parts.append(
                    f'<rect class="bar c{index % COLOURS_COUNT}{pale}" x="{x:.1f}" '
                    f'y="{bottom - tall * below - size:.1f}" width="{thick:.1f}" height="{size:.1f}">'
                    f"<title>{escape(told)}</title></rect>"
                )
    workers = max((len(pairs) for _name, pairs in rows), default=0)
    each = room / max(workers, 1)
    parts += (
        _text(LABEL_WIDTH + (worker + 0.5) * each - 1, height - 6, str(worker), "middle")
        for worker in range(0, workers, max(1, workers // 16))
    )
    return "\n".join([*parts, "</svg>"])


def courses(title: str, series: Sequence[Series], *, ends_s: Sequence[float]) -> str:
    """Draw each series over time by itself, under each other, on one logarithmic scale.

    Args:
        title: for those who do not see it.
        series: values, each of an equal part of the time from 0 to its end.
        ends_s: of each series.
    """
    tall, gap = 44, 16
    height = 34 + len(series) * (tall + gap)
    room = WIDTH - LABEL_WIDTH - 70
    most = max((value for one in series for value in one.values), default=0.0)
    scale = tall / math.log1p(max(most, 1.0))
    longest_s = max(ends_s, default=0.0) or 1.0
    parts = [_begin(title, height)]
    for index, (one, end_s) in enumerate(zip(series, ends_s, strict=True)):
        bottom = 6 + tall + index * (tall + gap)
        parts.append(_text(LABEL_WIDTH - 10, bottom - tall / 2 + 4, one.name, "end"))
        parts.append(f'<path class="grid" d="M{LABEL_WIDTH} {bottom}h{room}"/>')
        if not one.values:
            continue
        step = room * end_s / longest_s / len(one.values)
        outline = "".join(f"V{bottom - scale * math.log1p(value):.1f}h{step:.2f}" for value in one.values)
        own = max(one.values)
        parts.append(
            f'<path class="area c{index % COLOURS_COUNT}" d="M{LABEL_WIDTH} {bottom}{outline}V{bottom}Z">'
            f"<title>{escape(one.name)}: at most {own:,g}</title></path>"
        )
        parts.append(_text(LABEL_WIDTH + room + 8, bottom - tall / 2 + 4, f"max {own:,g}", "start"))
    parts += (
        _text(LABEL_WIDTH + room * share, height - 8, f"{longest_s * share:,.0f} s", "middle")
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    return "\n".join([*parts, "</svg>"])


def _begin(title: str, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, {chr(34): "&quot;"})}">'
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _decades(least: float, most: float, target: float | None) -> tuple[float, float]:
    """Choose the ends of an axis: a little beyond all values and the target."""
    low, high = min(least, target or least), max(most, target or most)
    return low / 1.1, max(high * 1.1, low * 1.5)


def _ticks(low: float, high: float) -> list[float]:
    """Choose round numbers between two ends: 1, 2 and 5 times powers of ten, fewer over many decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors: Sequence[int] = (1, 2, 5) if math.log10(high / low) < 4 else (1,)
    is_inside: Callable[[float], bool] = lambda tick: low <= tick <= high  # noqa: E731
    return [
        tick for power in decades for tick in (factor * 10.0**power for factor in factors) if is_inside(tick)
    ]
