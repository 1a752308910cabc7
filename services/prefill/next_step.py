"""What a worker has claimed and its engine has not begun: it all begins with the engine's next step.

Comes in: prompts, as their chunks. Goes out: how long they take together, and what one more adds. What the
engine is given between two of its steps it begins together, as far as the budget of a step goes; so a prompt
that fits adds less than it takes alone, and no step. Invariant: a function of values.
Not here: what the step costs those who decode (`services.prefill.stalling`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from services.domain.performance import PerformanceModel, PrefillChunk


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """Prompts that begin together; see `begin_with`.

    Attributes:
        performance: of the engine.
        step_tokens_max: most tokens per step.
        prompts_count: how many.
        new_tokens: that they compute together.
        prefill_s: that they take together.
    """

    performance: PerformanceModel
    step_tokens_max: int
    prompts_count: int = 0
    new_tokens: int = 0
    prefill_s: float = 0.0

    @property
    def steps_count(self) -> int:
        """Steps that they take."""
        return -(-self.new_tokens // self.step_tokens_max)

    def fits(self, new_tokens: int, *, decode_count: int) -> bool:
        """Say whether a prompt can join in the steps that the others take anyway.

        Args:
            new_tokens: that it computes.
            decode_count: sequences that decode on the engine; each takes a token of a step.
        """
        room_tokens = self.steps_count * (self.step_tokens_max - decode_count)
        return bool(self.prompts_count) and self.new_tokens + new_tokens <= room_tokens

    def added_s(self, *, prefill_s: float, new_tokens: int) -> float:
        """Say how much longer all take with one more.

        Args:
            prefill_s: that it takes alone.
            new_tokens: that it computes.
        """
        together_s = self._steps_s(self.new_tokens + new_tokens) - self._steps_s(self.new_tokens)
        return prefill_s - self._steps_s(new_tokens) + together_s

    def _steps_s(self, tokens: int) -> float:
        return self.performance.steps_s(tokens=tokens, step_tokens_max=self.step_tokens_max)


def begin_with(
    chunks: Iterable[PrefillChunk], *, performance: PerformanceModel, step_tokens_max: int
) -> NextStep:
    """Sum up what begins together.

    Args:
        chunks: one per prompt, all that it computes.
        performance: of the engine.
        step_tokens_max: most tokens per step.
    """
    prompts_count, new_tokens, chunks_s = 0, 0, 0.0
    for chunk in chunks:
        prompts_count += 1
        new_tokens += chunk.new_tokens
        chunks_s += performance.chunk_s(chunk)
    return NextStep(
        performance=performance,
        step_tokens_max=step_tokens_max,
        prompts_count=prompts_count,
        new_tokens=new_tokens,
        prefill_s=performance.steps_s(tokens=new_tokens, step_tokens_max=step_tokens_max) + chunks_s,
    )
