"""When what happened to a request, as its gateway saw it.

Comes in: marks with the time since accept. Goes out: TTFT and TPOT as the glossary defines them.
Invariant: all times are durations since accept by one clock, the gateway's.
"""

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """A moment in the life of a request."""

    ACCEPTED = "accepted"
    PLACED = "placed"
    QUEUED = "queued"
    CLAIMED = "claimed"
    PREFILLED = "prefilled"
    HANDED_OVER = "handed_over"
    """A decode worker accepted the ticket, or the request itself when prefill is local."""
    FIRST_TOKEN = "first_token"
    LAST_TOKEN = "last_token"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Moments of one request, in order."""

    marks: tuple[tuple[Mark, float], ...]
    """Pairs (moment, seconds since accept)."""
    output_tokens: int

    def at_s(self, mark: Mark) -> float | None:
        """Seconds from accept to the first occurrence of a mark, or None if it did not happen."""
        return next((at for m, at in self.marks if m is mark), None)

    @property
    def ttft_s(self) -> float | None:
        """Accept to first token."""
        return self.at_s(Mark.FIRST_TOKEN)

    @property
    def waited_s(self) -> float | None:
        """From placement until a worker claimed the prompt; None where none did."""
        placed, claimed = self.at_s(Mark.PLACED), self.at_s(Mark.CLAIMED)
        return None if placed is None or claimed is None else claimed - placed

    @property
    def tpot_s(self) -> float | None:
        """(last token - first token) / (OSL - 1); None below two tokens."""
        first, last = self.at_s(Mark.FIRST_TOKEN), self.at_s(Mark.LAST_TOKEN)
        if first is None or last is None or self.output_tokens < 2:
            return None
        return (last - first) / (self.output_tokens - 1)
