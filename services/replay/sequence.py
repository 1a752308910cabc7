"""A sequence: one job of one worker, and what a policy may know of a request.

Comes in: a traced request. Goes out: the mutable record that `worker` and `cluster` share.
Invariant: a policy sees `Job` only, which does not say how long the output will be.
"""

from dataclasses import dataclass, field
from enum import Enum

from services.domain.spoiling import Decoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request as a policy sees it."""

    index: int
    """Place in the trace; unique."""
    arrival_s: float
    prompt_tokens: int
    block_names: list[int]
    """Full KV blocks of the prompt, in order; equal name = equal prefix. Not to be changed."""


class Stage(Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    """Holds no block."""
    PULLING = "pulling"
    """Its blocks are reserved, content is on its way."""
    PULLED = "pulled"
    """Waits for a place in the batch."""
    PREFILLING = "prefilling"
    DECODING = "decoding"
    HELD = "held"
    """Prefilled; its blocks wait for whoever pulls them."""
    ENDED = "ended"


NOTHING_BEHIND = Decoding(written_tokens=0, stalls_count=0, elapsed_s=0.0)


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """One job of one worker.

    Attributes:
        job: whose.
        target_tokens: output tokens after which it is done here; 1 for a prefill that is handed over.
        emitted_tokens: output tokens so far, as of the step it last began or stopped decoding at.
        pulls: gets leading KV from another worker before it runs.
        hands_over: its first token is the end here; its blocks are then held.
        streams: whoever pulls its blocks wants each chunk as it is ready.
        order: smaller goes first in its worker.
        stage: where it stands.
        behind: what it wrote at other workers before.
        names: of its full blocks so far: the prompt's, and those of output if it lost its place once.
        computed_tokens: leading tokens with KV, as of the step it last began or stopped decoding at.
        shared_blocks: leading blocks held by reference.
        held_blocks: blocks held in all, as of its admission; it holds more once its output needs them.
        cached_tokens: prompt tokens that needed no computing here; None until it was admitted.
        joined_step: step of its worker at whose end it began to decode.
        end_step: step of its worker at whose end it will have its last token; -1 while it does not decode.
        spans: steps of its worker at whose ends it got a token, [first, last] each.
    """

    job: Job
    target_tokens: int
    emitted_tokens: int = 0
    pulls: bool = False
    hands_over: bool = False
    streams: bool = False
    order: int = 0
    stage: Stage = Stage.WAITING
    behind: Decoding = NOTHING_BEHIND
    names: list[int] = field(default_factory=list)
    computed_tokens: int = 0
    shared_blocks: int = 0
    held_blocks: int = 0
    cached_tokens: int | None = None
    joined_step: int = -1
    end_step: int = -1
    stalls_before: int = 0
    """Steps with prefill that its worker had made when it began to decode there."""
    spans: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Know the prompt's blocks."""
        self.names = self.job.block_names

    @property
    def total_tokens(self) -> int:
        """Tokens that exist: prompt and output."""
        return self.job.prompt_tokens + self.emitted_tokens

    @property
    def missing_tokens(self) -> int:
        """Tokens without KV."""
        return self.total_tokens - self.computed_tokens


def order_of(sequence: Sequence) -> int:
    """Sort key."""
    return sequence.order
