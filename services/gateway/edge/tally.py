"""Usage of one call, counted from its pieces.

Invariant: each prompt counts once however many choices it has; of its choices' cached tokens the
fewest count, since later choices reuse what the first one computed for this very call.
"""

from services.gateway.edge.calls import Call
from services.gateway.edge.openai_replies import PromptDetails, UsageReport
from services.gateway.edge.sequence_text import Piece


class Tally:
    """Counts tokens while pieces pass."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._cached: dict[int, int] = {}
        self.output_tokens = 0

    def fold(self, piece: Piece) -> None:
        """Count a piece."""
        self.output_tokens += piece.output_tokens
        if piece.cached_tokens is not None:
            prompt = piece.index // self._call.choices_per_prompt
            self._cached[prompt] = min(self._cached.get(prompt, piece.cached_tokens), piece.cached_tokens)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens whose KV was reused."""
        return sum(self._cached.values())

    def report(self) -> UsageReport:
        """Say what the call used so far."""
        prompt_tokens = self._call.prompt_tokens
        return UsageReport(
            prompt_tokens=prompt_tokens,
            completion_tokens=self.output_tokens,
            total_tokens=prompt_tokens + self.output_tokens,
            prompt_tokens_details=PromptDetails(self.cached_tokens),
        )
