"""What happened to each request, and when its tokens came out.

Comes in: the cluster's notes. Goes out: times of tokens. Invariant: a request that ended has one time per
output token, none earlier than the one before. Not here: percentiles (`measures`).
"""

from array import array
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(slots=True, kw_only=True)
class Record:
    """One request.

    Attributes:
        arrival_s: on the replay's clock, as all moments here.
        prompt_tokens: its input.
        output_tokens: its output.
        refused: why it was turned away; None: it was not.
        prefill_worker: who computed the prompt.
        decode_worker: who wrote last.
        cached_tokens: prompt tokens that were not computed.
        moved_bytes: KV that moved for it.
        prefilled_s: its prompt was computed.
        first_s: its first token was shown, where that is not an end of a step of who wrote.
        spans: steps at whose ends it got tokens, (worker, first step, last step) each.
        ended_s: its last token.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    refused: str | None = None
    prefill_worker: int = -1
    decode_worker: int = -1
    cached_tokens: int = 0
    moved_bytes: int = 0
    prefilled_s: float = 0.0
    first_s: float | None = None
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    ended_s: float | None = None

    def token_times_s(self, step_ends_s: "list[array[float]]") -> npt.NDArray[np.float64]:
        """List when its tokens came out.

        Args:
            step_ends_s: of every worker.

        Returns:
            Shape [output_tokens].
        """
        first = [] if self.first_s is None else [np.array([self.first_s])]
        ends = {worker: np.frombuffer(step_ends_s[worker]) for worker, _, _ in self.spans}
        return np.concatenate(
            [*first, *(ends[worker][start : stop + 1] for worker, start, stop in self.spans)]
        )
