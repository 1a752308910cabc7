"""Goes over all shapes in rounds, until the time is up, and keeps the lowest of each.

Comes in: one engine, or two that hand over. Goes out: points, and what could not be measured.
Invariant: ends within the budget and one more shape; the shapes are dealt out in turns, so that a
disturbance of some seconds spoils one round of many shapes and not all rounds of one.
The lowest of the rounds: what else a machine does only ever adds. Where the machine is the engine's own
all rounds agree and nothing is lost.
Not here: one round (`measure`), what is measured (`shapes`).
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.domain.performance import PerformanceModel
from services.engine.calibration.fit import fit
from services.engine.calibration.measure import Subject
from services.engine.calibration.points import DecodePoint, Point, PrefillPoint, TransferPoint
from services.engine.calibration.shapes import (
    DecodeShape,
    PrefillShape,
    decode_shapes,
    handoff_lengths,
    prefill_shapes,
)
from services.runtime.clock import LoopClock

ROUNDS_MAX = 12
FIRST_ROUND_FRAC = 0.6
"""Share of the budget after which no shape is begun that was never measured: later ones are longer still."""
HANDOFF_FRAC = 0.25
"""Share of the budget for handoffs, where there are any."""

S = TypeVar("S", bound=Hashable)
P = TypeVar("P", PrefillPoint, DecodePoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a survey is."""

    phase: str
    round_number: int
    """From 1."""
    measured_count: int
    """Shapes with a time."""
    shape_count: int
    elapsed_s: float
    """Since the survey began."""


Tell = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was measured."""

    points: tuple[Point, ...]
    rounds_count: int
    """Fewest rounds that any phase had."""
    missed: tuple[str, ...]
    """Shapes without a time, and why, as sentences."""
    took_s: float


class _Lowest(Generic[S, P]):
    """The lowest time per shape."""

    def __init__(self) -> None:
        self.points: dict[S, P] = {}

    def take(self, shape: S, point: P | None) -> None:
        before = self.points.get(shape)
        if point is not None and (before is None or point.took_s < before.took_s):
            self.points[shape] = point


async def survey(
    subject: Subject,
    *,
    budget_s: float,
    quick: bool,
    tell: Tell,
    other: Subject | None = None,
    rounds_max: int = ROUNDS_MAX,
) -> Survey:
    """Measure a started engine, and handoffs to another one if there is one.

    Args:
        subject: the engine.
        budget_s: time for all of it, s.
        quick: fewer and smaller shapes.
        tell: called before each shape.
        other: a started engine that `subject` hands over to.
        rounds_max: most rounds over all shapes, >= 1.

    Raises:
        ServingError: an engine refused or failed.
    """
    clock = LoopClock()
    began_s = clock.now_s()
    own_s = budget_s * (1.0 - HANDOFF_FRAC) if other is not None else budget_s
    limits = subject.info.limits
    prompts: _Lowest[PrefillShape, PrefillPoint] = _Lowest()
    batches: _Lowest[DecodeShape, DecodePoint] = _Lowest()
    shapes: list[PrefillShape | DecodeShape] = sorted(
        (*prefill_shapes(limits, quick=quick), *decode_shapes(limits, quick=quick)),
        key=lambda shape: shape.computed_tokens,
    )

    def elapsed_s() -> float:
        return clock.now_s() - began_s

    rounds = 0
    for number in range(1, rounds_max + 1):
        for shape in shapes:
            measured = len(prompts.points) + len(batches.points)
            fresh = shape not in prompts.points and shape not in batches.points
            if elapsed_s() > own_s * (FIRST_ROUND_FRAC if fresh else 1.0):
                continue
            tell(
                Progress(
                    phase="prefill" if isinstance(shape, PrefillShape) else "decode",
                    round_number=number,
                    measured_count=measured,
                    shape_count=len(shapes),
                    elapsed_s=elapsed_s(),
                )
            )
            if isinstance(shape, PrefillShape):
                prompts.take(shape, await subject.prefill(shape))
            else:
                batches.take(shape, await subject.decode(shape))
        if elapsed_s() > own_s:
            break
        rounds = number
    points: tuple[Point, ...] = (*prompts.points.values(), *batches.points.values())
    missed = [
        f"{_words(shape)}: {_why(shape)}"
        for shape in shapes
        if shape not in {*prompts.points, *batches.points}
    ]
    if other is not None:
        steps = fit(
            points, before=subject.info.performance, kv_tokens=limits.kv_blocks * limits.block_size_tokens
        )
        moved = await _handoffs(
            subject, other, steps.model, budget_s - elapsed_s(), rounds_max, quick=quick, tell=tell
        )
        points += moved
    return Survey(points=points, rounds_count=max(rounds, 1), missed=tuple(missed), took_s=elapsed_s())


async def _handoffs(
    giver: Subject,
    taker: Subject,
    model: PerformanceModel,
    budget_s: float,
    rounds_max: int,
    *,
    quick: bool,
    tell: Tell,
) -> tuple[TransferPoint, ...]:
    """Move prompts of all lengths in rounds; the decode step behind each transfer is taken off."""
    clock = LoopClock()
    began_s = clock.now_s()
    lowest: dict[int, TransferPoint] = {}
    lengths = handoff_lengths(giver.info.limits, quick=quick)
    for number in range(1, rounds_max + 1):
        for length in lengths:
            elapsed_s = clock.now_s() - began_s
            if elapsed_s > budget_s and number > 1:
                return tuple(lowest.values())
            tell(
                Progress(
                    phase="handoff",
                    round_number=number,
                    measured_count=len(lowest),
                    shape_count=len(lengths),
                    elapsed_s=elapsed_s,
                )
            )
            size_bytes, took_s = await giver.hand_over(taker, length)
            step_s = model.decode_s(sequence_count=1, context_tokens=length)
            point = TransferPoint(size_bytes=size_bytes, took_s=max(took_s - step_s, 1e-6))
            if length not in lowest or point.took_s < lowest[length].took_s:
                lowest[length] = point
    return tuple(lowest.values())


def _words(shape: PrefillShape | DecodeShape) -> str:
    if isinstance(shape, DecodeShape):
        return f"decode of {shape.sequence_count} x {shape.prompt_tokens} tokens"
    behind = f" behind {shape.cached_tokens} cached" if shape.cached_tokens else ""
    return f"prefill of {shape.prompt_count} x {shape.new_tokens} tokens{behind}"


def _why(shape: PrefillShape | DecodeShape) -> str:
    if isinstance(shape, PrefillShape) and shape.cached_tokens:
        return "the time was up, or the prefix did not stay cached"
    if isinstance(shape, PrefillShape) and shape.prompt_count == 1:
        return "the time was up"
    return "the time was up, or it never ran as one batch"
