"""The figure of a soak: panels of lines over time, faults as ticks, written as SVG by hand.

Comes in: rows and faults. Goes out: SVG text, the same for the same rows. No library draws here: one file,
readable in a diff.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 960, 170, 64, 190, 40, 46
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7d5ba6", "#b8860b", "#2f4858", "#d1495b", "#00798c", "#6b705c")
GRID_LINES = 4

Scale = Callable[[float], float]
"""From a value to its coordinate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        title: what is shown, with its unit.
        lines: name of each line and its values, aligned with the times; NaN leaves a gap.
    """

    title: str
    lines: Mapping[str, Sequence[float]]


def draw(title: str, times_min: Sequence[float], panels: Sequence[Panel], faults_min: Sequence[float]) -> str:
    """Draw all panels above each other.

    Args:
        title: of the figure.
        times_min: one per row, minutes.
        panels: top to bottom.
        faults_min: when something was broken, minutes.
    """
    height = TOP + len(panels) * (PANEL + GAP)
    box = f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="15" fill="#222">{escape(title)}</text>',
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, times_min, faults_min, TOP + index * (PANEL + GAP) + 14)
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    panel: Panel, times_min: Sequence[float], faults_min: Sequence[float], top: float
) -> Iterator[str]:
    last = max(times_min) or 1.0
    highest = max((v for line in panel.lines.values() for v in line if not math.isnan(v)), default=0.0)
    ceiling = _ceiling(highest)
    inner = WIDTH - LEFT - RIGHT

    def x(minute: float) -> float:
        return LEFT + inner * minute / last

    def y(value: float) -> float:
        return top + PANEL - PANEL * value / ceiling

    yield f'<text x="{LEFT}" y="{top - 5}" fill="#222">{escape(panel.title)}</text>'
    for step in range(GRID_LINES + 1):
        value = ceiling * step / GRID_LINES
        yield f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#e3e3e3"/>'
        yield f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555">{value:g}</text>'
    for minute in faults_min:
        yield f'<path d="M{x(minute):.1f} {top + PANEL}v-6" stroke="#c8553d"/>'
    for step in range(0, int(last) + 1, max(1, int(last) // 6)):
        yield (
            f'<text x="{x(step):.1f}" y="{top + PANEL + 15:.1f}" text-anchor="middle" '
            f'fill="#555">{step} min</text>'
        )
    for number, (name, values) in enumerate(panel.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        yield f'<path d="{_path(times_min, values, x, y)}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
        yield (
            f'<text x="{WIDTH - RIGHT + 10}" y="{top + 10 + 16 * number:.1f}" '
            f'fill="{colour}">{escape(name)}</text>'
        )


def _path(times: Sequence[float], values: Sequence[float], x: Scale, y: Scale) -> str:
    words, drawing = [], False
    for minute, value in zip(times, values, strict=True):
        if math.isnan(value):
            drawing = False
            continue
        words.append(f"{'L' if drawing else 'M'}{x(minute):.1f} {y(value):.1f}")
        drawing = True
    return "".join(words)


def _ceiling(highest: float) -> float:
    """Choose a round number that is not below the highest value."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(power * factor for factor in (1, 2, 4, 5, 8, 10) if power * factor >= highest)
