"""Shows a calibration: every point, the errors of both models, and the model as YAML to paste.

Comes in: a `Calibrated`. Goes out: lines of text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields

from services.cli.calibrating import Calibrated
from services.cli.output import table
from services.domain.performance import PerformanceModel
from services.engine.calibration.points import (
    DecodePoint,
    ErrorSpread,
    Point,
    PrefillPoint,
    TransferPoint,
    decodes,
    error_frac,
    judge,
    prefills,
    transfers,
)

_PHASES: Mapping[str, Callable[[Sequence[Point]], Sequence[Point]]] = {
    "prefill": prefills,
    "decode": decodes,
    "transfer": transfers,
}
_TIMES = ("measured ms", "fit ms", "fit error", "preset error")
_ERRORS = ("points", "mean", "median", "p90", "largest")


def print_report(found: Calibrated) -> None:
    """Print everything."""
    print(found.source)
    for lines in (_points(found), _errors(found), found.notes, found.fit.notes):
        for place, line in enumerate(lines):
            print(line if place else f"\n{line}")
    print()
    print(render_preset(found), end="")


def print_groups(found: Mapping[str, Calibrated]) -> None:
    """Print one row per engine."""
    rows = [
        (name, *(_of(judge(one.fit.model, pick(one.points))) for pick in _PHASES.values()))
        for name, one in found.items()
    ]
    for line in table(("engine", *(f"{phase} error, mean / largest" for phase in _PHASES)), rows):
        print(line)
    print("one of them in full, and as YAML: --group NAME")


def render_preset(found: Calibrated) -> str:
    """Write the fitted model as a section of the cluster's settings."""
    lines = [f"# Fitted by `baton profile`: {found.source}"]
    for phase, pick in _PHASES.items():
        spread = judge(found.fit.model, pick(found.points))
        if spread is not None:
            lines.append(f"# {phase}: {spread.point_count} points, error {_of(spread)} (mean / largest)")
    lines += [f"# {note}" for note in found.fit.notes]
    lines += [f"{found.section}:", "  performance:"]
    # A point and a sign, or YAML 1.1 reads the number as text.
    lines += [f"    {f.name}: {getattr(found.fit.model, f.name):.5e}" for f in fields(PerformanceModel)]
    return "\n".join(lines) + "\n"


def _points(found: Calibrated) -> Iterator[str]:
    shapes: dict[str, tuple[tuple[str, ...], Callable[[Point], tuple[str, ...]]]] = {
        "prefill": (("prompts", "new tok each", "cached tok each"), _prefill_cells),
        "decode": (("sequences", "context tok, all"), _decode_cells),
        "transfer": (("KV bytes",), _transfer_cells),
    }
    for phase, pick in _PHASES.items():
        points = pick(found.points)
        if not points:
            continue
        columns, cells = shapes[phase]
        rows = [(*cells(point), *_times(found, point)) for point in points]
        yield f"{phase}:"
        for line in table((*columns, *_TIMES), rows):
            yield f"  {line}"


def _prefill_cells(point: Point) -> tuple[str, ...]:
    if not isinstance(point, PrefillPoint):
        return ()
    return f"{point.prompt_count:,}", f"{point.new_tokens:,}", f"{point.cached_tokens:,}"


def _decode_cells(point: Point) -> tuple[str, ...]:
    return (
        (f"{point.sequence_count:,}", f"{point.context_tokens:,.0f}")
        if isinstance(point, DecodePoint)
        else ()
    )


def _transfer_cells(point: Point) -> tuple[str, ...]:
    return (f"{point.size_bytes:,}",) if isinstance(point, TransferPoint) else ()


def _times(found: Calibrated, point: Point) -> tuple[str, ...]:
    return (
        f"{point.took_s * 1e3:,.2f}",
        f"{point.predicted_s(found.fit.model) * 1e3:,.2f}",
        f"{error_frac(found.fit.model, point):+.1%}",
        f"{error_frac(found.before, point):+.1%}",
    )


def _errors(found: Calibrated) -> Iterator[str]:
    rows = []
    for phase, pick in _PHASES.items():
        points = pick(found.points)
        for name, model in (
            ("the fit", found.fit.model),
            (found.before_name or "the settings' own", found.before),
        ):
            spread = judge(model, points)
            if spread is not None:
                shares = (spread.mean_frac, spread.median_frac, spread.p90_frac, spread.largest_frac)
                rows.append((f"{phase}, {name}", str(spread.point_count), *(f"{s:.1%}" for s in shares)))
    yield "error of the predicted times, as a share of the measured ones:"
    for line in table(("model", *_ERRORS), rows):
        yield f"  {line}"


def _of(spread: ErrorSpread | None) -> str:
    return "-" if spread is None else f"{spread.mean_frac:.1%} / {spread.largest_frac:.1%}"
