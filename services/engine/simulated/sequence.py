"""A sequence: one job on its way through the engine.

Comes in: a job. Goes out: the mutable record that scheduler and engine share. Invariant: `computed`
tokens have KV in `holding`; `hashes` are those of the leading full blocks of `tokens`.
Not here: when it runs (`scheduler`), what it says (`oracle`).
"""

from dataclasses import dataclass, field
from enum import Enum

from services.domain.blocks import BlockHash, blocks_for, chain, hash_blocks
from services.domain.errors import ContextTooLong, InvalidRequest, ServingError
from services.domain.handoff import Ticket
from services.domain.ids import RequestId
from services.domain.request import InferenceRequest
from services.domain.worker import WorkerLimits
from services.engine.port import DecodeJob, PrefillJob
from services.engine.simulated.oracle import Continuation
from services.engine.simulated.pool import Holding


class Stage(Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    PULLING = "pulling"
    """Blocks are reserved, their content is on its way."""
    RUNNING = "running"
    ENDED = "ended"


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """One job.

    Attributes:
        request: what is asked.
        is_prefill: ends in a lease after one token.
        order: (priority, arrival): smaller goes first.
        tokens: prompt and output so far.
        continuation: says the next token.
        ticket: KV still to be pulled; None once it was.
        submitted_s: by the loop's clock.
        stage: where it stands.
        computed: leading tokens whose KV exists or is computed by the present step.
        cached_tokens: prompt tokens reused; None while unknown or when the prompt was pulled.
        spoke: its first delta is out.
        request_id: whose job it is.
        holding: its blocks.
        hashes: of the leading full blocks of `tokens`, as far as anybody asked.
    """

    request: InferenceRequest
    is_prefill: bool
    order: tuple[int, int]
    tokens: list[int]
    continuation: Continuation
    ticket: Ticket | None
    submitted_s: float
    stage: Stage = Stage.WAITING
    computed: int = 0
    cached_tokens: int | None = None
    spoke: bool = False
    request_id: RequestId = field(init=False)
    holding: Holding = field(init=False)
    hashes: list[BlockHash] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start without blocks."""
        self.request_id = self.request.request_id
        self.holding = Holding(root=self.request.scope.root())

    @property
    def remaining(self) -> int:
        """Tokens without KV; 1 while it decodes."""
        return len(self.tokens) - self.computed

    def full_blocks(self, tokens: int, block_size_tokens: int) -> list[BlockHash]:
        """Hash the full blocks within the leading `tokens` tokens."""
        wanted = tokens // block_size_tokens
        hashes = self.hashes
        if not hashes and wanted > 1:
            leading = self.tokens[: wanted * block_size_tokens]
            hashes.extend(hash_blocks(leading, block_size_tokens=block_size_tokens, scope=self.request.scope))
        while len(hashes) < wanted:
            start = len(hashes) * block_size_tokens
            parent = hashes[-1] if hashes else self.holding.root
            hashes.append(chain(parent, self.tokens[start : start + block_size_tokens]))
        return hashes[:wanted]


def open_sequence(
    job: PrefillJob | DecodeJob,
    *,
    continuation: Continuation,
    arrival: int,
    now_s: float,
) -> Sequence:
    """Make the record of a job that the engine accepted.

    Args:
        job: as submitted.
        continuation: its output, behind what was emitted already.
        arrival: counts submissions of this engine.
        now_s: by the loop's clock.
    """
    request = job.request
    decode = job if isinstance(job, DecodeJob) else None
    return Sequence(
        request=request,
        is_prefill=decode is None,
        order=(request.priority, arrival),
        tokens=[*request.prompt_token_ids, *(decode.emitted_token_ids if decode else ())],
        continuation=continuation,
        ticket=decode.ticket if decode else None,
        submitted_s=now_s,
    )


def prompt_blocks(sequence: Sequence, block_size_tokens: int) -> int:
    """Count the blocks that the prompt needs."""
    return blocks_for(sequence.request.prompt_tokens, block_size_tokens)


def refusal(sequence: Sequence, limits: WorkerLimits) -> ServingError | None:
    """Say why no engine with such limits can run a sequence."""
    request, limit = sequence.request, limits.context_tokens_max
    if not request.prompt_token_ids:
        return InvalidRequest(message="the prompt is empty", param="prompt")
    if len(sequence.tokens) >= limit:
        return ContextTooLong(
            message=f"{len(sequence.tokens)} tokens leave no room for output in a context of {limit}",
            prompt_tokens=request.prompt_tokens,
            limit_tokens=limit,
        )
    if not sequence.is_prefill and sequence.continuation.count >= request.sampling.max_tokens:
        return InvalidRequest(message="max_tokens are out already", param="max_tokens")
    return None
