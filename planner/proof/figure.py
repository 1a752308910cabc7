"""Figures of runs as SVG text: workers over time beside the bound, and cost against attainment.

Comes in: runs, bounds, outcomes. Goes out: SVG with its own colours, light and dark; the same bytes from the
same numbers. Not here: numbers (`outcome`), tables (`table`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np

from planner.proof.load import Floats
from planner.proof.outcome import Outcome

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 880, 56, 16, 30, 40
POINTS = 800
"""A course is drawn by so many points: the most of each equal part."""
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#9d174d", "#4d7c0f")
_STYLE = (
    "<style>svg{background:#fff;color:#222;font:12px system-ui,sans-serif}text{fill:currentColor}"
    ".grid{stroke:#8884;fill:none}.line{fill:none;stroke-width:1.6}.bound{fill:#8883;stroke:none}"
    "@media(prefers-color-scheme:dark){svg{background:#111;color:#ddd}}</style>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Workers over time.

    Attributes:
        name: of the scaler.
        paid: shape [steps].
        step_s: length of a step.
    """

    name: str
    paid: Floats
    step_s: float


def fleets(title: str, courses: Sequence[Course], *, bound: Floats, bound_step_s: float) -> str:
    """Draw the workers that each scaler paid for, over the fleet of the bound.

    Args:
        title: above.
        courses: lines.
        bound: fleet of the bound, shape [bound steps].
        bound_step_s: length of a step of it.
    """
    height = 320
    end_s = max([bound.size * bound_step_s, *(course.paid.size * course.step_s for course in courses)])
    most = max([float(bound.max(initial=1)), *(float(course.paid.max()) for course in courses)])
    right, bottom = WIDTH - RIGHT, height - BOTTOM

    def path(values: Floats, step_s: float) -> str:
        parts = np.array_split(values, min(POINTS, values.size))
        width = (right - LEFT) * values.size * step_s / end_s / len(parts)
        ups = [bottom - (bottom - TOP) * float(part.max()) / most for part in parts]
        return f"M{LEFT} {ups[0]:.1f}" + "".join(f"V{up:.1f}h{width:.3f}" for up in ups)

    lines = [_begin(title, height), _text(LEFT, 18, title, "start")]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        up, x = bottom - (bottom - TOP) * share, LEFT + (right - LEFT) * share
        lines.append(f'<path class="grid" d="M{LEFT} {up:.1f}H{right}"/>')
        lines.append(_text(LEFT - 8, up + 4, f"{most * share:.3g}", "end"))
        lines.append(_text(x, bottom + 16, _time(end_s * share), "middle"))
    area = path(np.asarray(bound, dtype=np.float64), bound_step_s)
    lines.append(f'<path class="bound" d="{area}V{bottom}H{LEFT}Z"><title>clairvoyant bound</title></path>')
    for place, course in enumerate(courses):
        lines.append(_line(path(course.paid, course.step_s), COLOURS[place % len(COLOURS)], course.name))
    lines += _legend([*(course.name for course in courses)], height - 6)
    return "\n".join([*lines, "</svg>"])


def pareto(title: str, outcomes: Sequence[Outcome]) -> str:
    """Draw cost over the bound against the share of late requests, a line per scaler through its values.

    Args:
        title: above.
        outcomes: of one load, targets and start-up; the values of one scaler are joined by cost.
    """
    height = 360
    late = [max(1.0 - one.attained_frac, 1e-5) for one in outcomes]
    low, high = 1e-5, max(*late, 0.1)
    ratios = [one.ratio for one in outcomes]
    least, most = min(1.0, *ratios), max(ratios)
    right, bottom = WIDTH - RIGHT, height - BOTTOM

    def place_of(one: Outcome) -> tuple[float, float]:
        across = (one.ratio - least) / max(most - least, 1e-9)
        up = math.log(max(1.0 - one.attained_frac, low) / low) / math.log(high / low)
        return LEFT + (right - LEFT) * across, bottom - (bottom - TOP) * up

    lines = [_begin(title, height), _text(LEFT, 18, title, "start")]
    for power in range(-5, 1):
        if low <= 10.0**power <= high:
            up = bottom - (bottom - TOP) * math.log(10.0**power / low) / math.log(high / low)
            lines.append(f'<path class="grid" d="M{LEFT} {up:.1f}H{right}"/>')
            lines.append(_text(LEFT - 8, up + 4, f"{100 * 10.0**power:g}%", "end"))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = LEFT + (right - LEFT) * share
        lines.append(_text(x, bottom + 16, f"{least + (most - least) * share:.2f}x", "middle"))
    names = list(dict.fromkeys(one.scaler for one in outcomes))
    for place, name in enumerate(names):
        colour = COLOURS[place % len(COLOURS)]
        own = sorted((one for one in outcomes if one.scaler == name), key=lambda one: (one.ratio, one.values))
        points = [place_of(one) for one in own]
        lines.append(_line("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), colour, name))
        lines += (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}">'
            f"<title>{escape(name)} ({escape(one.values)}): {one.ratio:.3f}x, "
            f"{100 * one.attained_frac:.2f}%</title></circle>"
            for (x, y), one in zip(points, own, strict=True)
        )
    lines += _legend(names, height - 6)
    return "\n".join([*lines, "</svg>"])


def _begin(title: str, height: int) -> str:
    label = escape(title, {'"': "&quot;"})
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{label}">{_STYLE}'
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(path: str, colour: str, name: str) -> str:
    return f'<path class="line" stroke="{colour}" d="{path}"><title>{escape(name)}</title></path>'


def _legend(names: Sequence[str], y: float) -> list[str]:
    lines, x = [], float(LEFT)
    for place, name in enumerate(names):
        colour = COLOURS[place % len(COLOURS)]
        lines.append(f'<rect x="{x:.0f}" y="{y - 9:.0f}" width="10" height="10" fill="{colour}"/>')
        lines.append(_text(x + 14, y, name, "start"))
        x += 34 + 6.4 * len(name)
    return lines


def _time(duration_s: float) -> str:
    if duration_s >= 2 * 86_400:
        return f"{duration_s / 86_400:.1f} d"
    return f"{duration_s / 3600:.1f} h" if duration_s >= 7200 else f"{duration_s / 60:.1f} min"
