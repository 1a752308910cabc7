"""Measured times, and what a performance model says of the same work.

Comes in: work that an engine did, and how long it took. Goes out: the predicted time, the error.
Invariant: a point holds all that the model asks for. Not here: how it was measured.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from services.domain.performance import PerformanceModel, PrefillChunk


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillPoint:
    """Prompts of one shape that were computed together.

    Attributes:
        prompt_count: prompts, >= 1.
        new_tokens: tokens computed of each, >= 1.
        cached_tokens: tokens before them whose KV existed.
        step_tokens_max: tokens that a step takes; None when all of it was one step.
        took_s: until the last first token, s.
    """

    prompt_count: int
    new_tokens: int
    cached_tokens: int
    took_s: float
    step_tokens_max: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens computed, of all prompts together."""
        return self.prompt_count * self.new_tokens

    @property
    def pairs(self) -> float:
        """Pairs of a computed token and a token it attends to, of all prompts together."""
        return self.tokens * (self.cached_tokens + self.new_tokens / 2)

    @property
    def steps(self) -> tuple[int, ...]:
        """Tokens of each step."""
        whole = self.step_tokens_max or self.tokens
        full, rest = divmod(self.tokens, whole)
        return (whole,) * full + ((rest,) if rest else ())

    def predicted_s(self, model: PerformanceModel) -> float:
        """Time that the model says."""
        chunk = PrefillChunk(new_tokens=self.new_tokens, context_tokens=self.cached_tokens)
        whole = self.step_tokens_max or self.tokens
        return model.steps_s(tokens=self.tokens, step_tokens_max=whole) + self.prompt_count * model.chunk_s(
            chunk
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePoint:
    """One step that writes a token for each sequence.

    Attributes:
        sequence_count: sequences in it, >= 1.
        context_tokens: KV tokens of all of them together.
        took_s: s.
    """

    sequence_count: int
    context_tokens: float
    took_s: float

    def predicted_s(self, model: PerformanceModel) -> float:
        """Time that the model says."""
        return model.decode_s(sequence_count=self.sequence_count, context_tokens=round(self.context_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPoint:
    """KV that moved from one engine to another.

    Attributes:
        size_bytes: KV of the prompt.
        took_s: from the ticket to readable KV, s.
    """

    size_bytes: int
    took_s: float

    def predicted_s(self, model: PerformanceModel) -> float:
        """Time that the model says."""
        return model.transfer_s(self.size_bytes)


Point: TypeAlias = PrefillPoint | DecodePoint | TransferPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSpread:
    """How far predictions are off, as shares of what was measured: |predicted / measured - 1|."""

    point_count: int
    mean_frac: float
    median_frac: float
    p90_frac: float
    largest_frac: float


def judge(model: PerformanceModel, points: Sequence[Point]) -> ErrorSpread | None:
    """Compare a model with measurements; None when there are none."""
    if not points:
        return None
    errors = sorted(abs(error_frac(model, point)) for point in points)
    return ErrorSpread(
        point_count=len(errors),
        mean_frac=sum(errors) / len(errors),
        median_frac=median(errors),
        p90_frac=errors[min(len(errors) - 1, int(0.9 * len(errors)))],
        largest_frac=errors[-1],
    )


def error_frac(model: PerformanceModel, point: Point) -> float:
    """Say how far a prediction is off, as a share of what was measured; above 0: predicted too long."""
    return point.predicted_s(model) / point.took_s - 1.0


def prefills(points: Iterable[Point]) -> list[PrefillPoint]:
    """Pick those that prefill."""
    return [point for point in points if isinstance(point, PrefillPoint)]


def decodes(points: Iterable[Point]) -> list[DecodePoint]:
    """Pick those that decode."""
    return [point for point in points if isinstance(point, DecodePoint)]


def transfers(points: Iterable[Point]) -> list[TransferPoint]:
    """Pick those that move KV."""
    return [point for point in points if isinstance(point, TransferPoint)]
