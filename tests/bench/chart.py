"""A line chart as SVG text: no library, the same bytes from the same numbers.

Comes in: series of points. Goes out: SVG. Not here: what the numbers mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 60, 200, 40, 50
COLOURS = ("#0b6e4f", "#c1121f", "#1d4e89", "#b07d00")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series.

    Attributes:
        name: shown at its end.
        points: pairs (x, y), by x.
        dashed: told apart from its neighbours without colour too.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def draw(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """Draw lines over common axes that begin at 0."""
    x_max = max(x for line in lines for x, _ in line.points)
    y_max = 1.1 * max(y for line in lines for _, y in line.points) or 1.0
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (right - LEFT) * x / x_max, bottom - (bottom - TOP) * y / y_max

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_name)}</text>',
        (
            f'<text transform="translate(16 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_name)}</text>"
        ),
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#333"/>',
    ]
    for step in range(5):
        value = y_max * step / 4
        _, y = place(0, value)
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd" fill="none"/>')
    for x in sorted({x for line in lines for x, _ in line.points}):
        at, _ = place(x, 0)
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{x:g}</text>')
    label_y = float(TOP)
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y in line.points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for x, y in line.points:
            cx, cy = place(x, y)
            parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3" fill="{colour}"/>')
        parts.append(f'<path d="M{right + 12} {label_y:.0f}h24" stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{right + 42}" y="{label_y + 4:.0f}">{escape(line.name)}</text>')
        label_y += 22
    return "\n".join([*parts, "</svg>"]) + "\n"
