"""Fits the performance model to measured times, by least squares of the relative error.

Comes in: points, and the model that keeps what they do not show. Goes out: the fitted model and which of
its constants are new. Invariant: a function of the points; no constant is below 0, but for the bend of
decode, and a bend only where the step still grows with a full cache.
Relative: a step of 5 ms and one of 5 s weigh alike, as they do for whoever predicts them.
Not here: measuring (`measure`), judging (`points`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from services.domain.performance import PerformanceModel
from services.engine.calibration.points import (
    DecodePoint,
    Point,
    PrefillPoint,
    TransferPoint,
    decodes,
    prefills,
    transfers,
)

Floats = npt.NDArray[np.float64]

POINTS_MIN = 3
"""Fewest points from which the three constants of a phase follow."""
TRANSFERS_MIN = 2
"""Fewest from which the two of a transfer follow."""
SQUARE_GAIN = 0.8
"""A square is taken only if the error falls to this share or less (root of mean squares) ..."""
SQUARE_GAIN_FRAC = 0.001
"""... and by as much of the measured times; below that it explains noise."""
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted model."""

    model: PerformanceModel
    fitted: tuple[str, ...]
    """Phases whose constants are new: prefill, decode, transfer."""
    notes: tuple[str, ...]
    """What was kept from the model before, and why, as sentences."""


def fit(points: Sequence[Point], *, before: PerformanceModel, kv_tokens: float) -> Fit:
    """Fit as many constants as the points show.

    Args:
        points: what was measured.
        before: keeps the constants of phases with too few points.
        kv_tokens: KV capacity of the engine; up to there a longer context must take longer.
    """
    model, fitted, notes = before, [], []
    own_prefills, own_decodes, own_transfers = prefills(points), decodes(points), transfers(points)
    if len(own_prefills) >= POINTS_MIN:
        model = _with_prefill(model, own_prefills)
        fitted.append("prefill")
    if len(own_decodes) >= POINTS_MIN:
        model = _with_decode(model, own_decodes, kv_tokens)
        fitted.append("decode")
    moved = _with_transfer(model, own_transfers) if len(own_transfers) >= TRANSFERS_MIN else None
    if moved is not None:
        model = moved
        fitted.append("transfer")
    counts = {"prefill": len(own_prefills), "decode": len(own_decodes), "transfer": len(own_transfers)}
    for phase, count in counts.items():
        if phase not in fitted:
            why = f"{count} points are too few" if count else "it was not measured"
            if count >= TRANSFERS_MIN and phase == "transfer":
                why = "the time does not grow with the bytes"
            notes.append(f"{phase}: kept as it was: {why}")
    return Fit(model=model, fitted=tuple(fitted), notes=tuple(notes))


def _with_prefill(model: PerformanceModel, points: Sequence[PrefillPoint]) -> PerformanceModel:
    columns = [
        [float(len(p.steps)) for p in points],
        [float(p.tokens) for p in points],
        [p.pairs for p in points],
    ]
    squares = [float(sum(step * step for step in p.steps)) for p in points]
    found, square = _best(columns, [squares], [p.took_s for p in points])
    return replace(
        model,
        prefill_step_s=float(found[0]),
        prefill_token_s=float(found[1]),
        prefill_attention_s=float(found[2]),
        prefill_square_s=square,
    )


def _with_decode(
    model: PerformanceModel, points: Sequence[DecodePoint], kv_tokens: float
) -> PerformanceModel:
    columns = [
        [1.0 for _ in points],
        [float(p.sequence_count) for p in points],
        [float(p.context_tokens) for p in points],
    ]
    squares = [float(p.context_tokens) ** 2 for p in points]
    seconds = [p.took_s for p in points]
    found, square = _best(columns, [squares, [-s for s in squares]], seconds)
    if found[2] + 2.0 * square * kv_tokens < 0.0:  # would fall before the cache is full
        found, square = _best(columns, [squares], seconds)
    return replace(
        model,
        decode_step_s=float(found[0]),
        decode_sequence_s=float(found[1]),
        decode_context_token_s=float(found[2]),
        decode_context_square_s=square,
        decode_least_s=0.0,
    )


def _with_transfer(model: PerformanceModel, points: Sequence[TransferPoint]) -> PerformanceModel | None:
    columns = [[1.0 for _ in points], [float(p.size_bytes) for p in points]]
    fixed_s, per_byte_s = solve(columns, [p.took_s for p in points])
    if per_byte_s <= 0.0:
        return None
    return replace(model, handoff_s=float(fixed_s), transfer_bytes_per_s=float(1.0 / per_byte_s))


def _best(
    columns: list[list[float]], squares: list[list[float]], seconds: Sequence[float]
) -> tuple[Floats, float]:
    """Fit without and with squares; the simpler one unless the squares lower the error clearly.

    Returns:
        The constants of the columns, and the one of the first of the squares: the second is its negative.
    """
    plain = solve(columns, seconds)
    full = solve(columns + squares, seconds)
    plain_error = _error_frac(columns, plain, seconds)
    full_error = _error_frac(columns + squares, full, seconds)
    told_apart = _rank(columns + squares[:1], seconds) > len(columns)
    gain = plain_error - full_error
    if not told_apart or full_error > SQUARE_GAIN * plain_error or gain < SQUARE_GAIN_FRAC:
        return plain, 0.0
    signed = full[len(columns) :]
    return full[: len(columns)], float(signed[0] - (signed[1] if len(signed) > 1 else 0.0))


def solve(columns: Sequence[Sequence[float]], seconds: Sequence[float]) -> Floats:
    """Find the constants, each at least 0, with the least squares of the relative error.

    The active-set method of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23): constants
    enter one by one where they lower the error most, and leave when the others push them below 0.

    Args:
        columns: shape [constants][points]: what each constant is multiplied by.
        seconds: shape [points]; each above 0.
    """
    table, scales = _relative(columns, seconds)
    ones = np.ones(len(seconds))
    found = np.zeros(len(columns))
    inside = np.zeros(len(columns), dtype=bool)
    while True:
        slopes = table.T @ (ones - table @ found)
        slopes[inside] = -np.inf
        entering = int(np.argmax(slopes))
        if inside.all() or slopes[entering] <= _ROUNDING * len(seconds):
            return np.asarray(found / scales)
        inside[entering] = True
        while True:
            trial = np.zeros(len(columns))
            trial[inside] = np.linalg.lstsq(table[:, inside], ones, rcond=None)[0]
            falling = inside & (trial <= 0.0)
            if not falling.any():
                break
            if falling[entering] and found[entering] == 0.0:  # rounding let it in: it lowers nothing
                inside[entering] = False
                return np.asarray(found / scales)
            steps = found[falling] / (found[falling] - trial[falling])
            found = found + float(steps.min()) * (trial - found)
            inside &= found > _ROUNDING
            found[~inside] = 0.0
        found = trial


def _relative(columns: Sequence[Sequence[float]], seconds: Sequence[float]) -> tuple[Floats, Floats]:
    """Divide by the measured times, then scale each column to length 1."""
    table = np.array(columns, dtype=np.float64).T / np.array(seconds, dtype=np.float64)[:, None]
    scales = np.linalg.norm(table, axis=0)
    scales[scales == 0.0] = 1.0
    return table / scales, scales


def _rank(columns: Sequence[Sequence[float]], seconds: Sequence[float]) -> int:
    """Count the columns that the points tell apart."""
    table, _ = _relative(columns, seconds)
    return int(np.linalg.matrix_rank(table, tol=1e-6))


def _error_frac(columns: Sequence[Sequence[float]], found: Floats, seconds: Sequence[float]) -> float:
    """Root of the mean square of the relative error."""
    predicted = np.array(columns, dtype=np.float64).T @ found
    return float(np.sqrt(np.mean((predicted / np.array(seconds) - 1.0) ** 2)))
