"""Prompts that an engine computes together, one behind another in as few steps as their tokens fill.

Comes in: prompts, as their chunks. Goes out: how long they take together. What an engine is given between two
of its steps it begins together, as far as the budget of a step goes; so a prompt that fits adds less than it
takes alone, and no step. Invariant: a function of values.
Not here: what the steps cost those who decode (`services.domain.spoiling`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from services.domain.performance import PerformanceModel, PrefillChunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Some prompts; `together` makes it of chunks.

    Attributes:
        performance: of the engine.
        step_tokens_max: most tokens per step.
        prompts_count: how many.
        new_tokens: that they compute.
        prefill_s: that they take.
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
        """Say whether a prompt can join in the steps that the others take anyway, in one if there is none.

        Args:
            new_tokens: that it computes.
            decode_count: sequences that decode on the engine; each takes a token of a step.
        """
        room_tokens = max(1, self.steps_count) * (self.step_tokens_max - decode_count)
        return self.new_tokens + new_tokens <= room_tokens

    def with_prompt(self, chunk: PrefillChunk) -> "Together":
        """Add one.

        Args:
            chunk: all that it computes.
        """
        performance, most = self.performance, self.step_tokens_max
        new_tokens = self.new_tokens + chunk.new_tokens
        before_s = performance.steps_s(tokens=self.new_tokens, step_tokens_max=most)
        after_s = performance.steps_s(tokens=new_tokens, step_tokens_max=most)
        return Together(
            performance=performance,
            step_tokens_max=most,
            prompts_count=self.prompts_count + 1,
            new_tokens=new_tokens,
            prefill_s=self.prefill_s + after_s - before_s + performance.chunk_s(chunk),
        )


def together(
    chunks: Iterable[PrefillChunk], *, performance: PerformanceModel, step_tokens_max: int
) -> Together:
    """Sum up what is computed together.

    Args:
        chunks: one per prompt, all that it computes.
        performance: of the engine.
        step_tokens_max: most tokens per step.
    """
    prompts = Together(performance=performance, step_tokens_max=step_tokens_max)
    for chunk in chunks:
        prompts = prompts.with_prompt(chunk)
    return prompts
