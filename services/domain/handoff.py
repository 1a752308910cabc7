"""The handoff: what a prefill worker gives away so that a decode worker can go on.

Comes in: the end of a prefill. Goes out: a ticket (where the KV blocks are and for how long) and,
where that is exact, the first token. Invariant: a ticket is used once, by its own prompt, within its
lease; `check_ticket` is asked before any engine sees one, because a wrong ticket kills the decode
engine or silently poisons its prefix cache (measured with vLLM 0.32).
Not here: the transfer itself (`services.engine`).
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from services.domain.blocks import CacheScope, blocks_for
from services.domain.ids import EngineEpoch, RequestId, TaskId, TicketId, WorkerId
from services.domain.integrity import CHECKS_MAX, BlockCheck
from services.domain.stream import Delta


def prompt_digest(token_ids: Sequence[int], scope: CacheScope) -> str:
    """Fingerprint a whole prompt within its cache scope: equal digest = equal prompt.

    Args:
        token_ids: shape [prompt_tokens], each in [0, 2**32).
        scope: cache scope of the prompt.

    Returns:
        32 hexadecimal digits.
    """
    state = hashlib.blake2b(scope.root().to_bytes(8, "little"), digest_size=16)
    state.update(array("I", token_ids).tobytes())
    return state.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Where the KV blocks of one prompt are, and how long they are kept."""

    ticket_id: TicketId
    request_id: RequestId
    prefill_worker_id: WorkerId
    epoch: EngineEpoch
    """Engine life that holds the blocks."""
    digest: str
    """`prompt_digest` of the prompt whose KV this is."""
    prompt_tokens: int
    block_size_tokens: int
    block_count: int
    """Blocks held under the lease: enough for the prompt, the last one perhaps partly filled."""
    kv_bytes: int
    """Bytes that a full pull would move."""
    lease_s: float
    """How long the blocks are kept, counted from the moment the ticket was received."""
    compatibility: str
    """Engine kind, version and KV layout: both sides must be equal."""
    connector: str
    """What the engine's own connector needs, as JSON text; opaque outside `services.engine`."""
    checks: tuple[BlockCheck, ...] = ()
    """Fingerprints of a sample of the blocks, ascending by block; the puller compares those it pulls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """The end of a prefill: a ticket, the first token and what the prefill cost."""

    task_id: TaskId
    request_id: RequestId
    worker_id: WorkerId
    ticket: Ticket | None
    """None when nothing is left to decode: the first token also was the last."""
    first: Delta
    """The first token as sampled by prefill. Its `finish` is set when it also is the last."""
    first_is_exact: bool
    """Whether the first token may be shown: if not, decode samples it again from the same prompt."""
    waited_s: float
    """From enqueue to claim, as far as the worker can tell."""
    prefill_s: float
    """From claim to first token."""


def check_ticket(
    ticket: Ticket,
    *,
    digest: str,
    prompt_tokens: int,
    emitted_count: int,
    age_s: float,
    compatibility: str,
    block_size_tokens: int,
    already_used: bool,
) -> str | None:
    """Say why a ticket must not be shown to an engine, or None when it may.

    Args:
        ticket: as received.
        digest: `prompt_digest` of the prompt that decode is asked to continue.
        prompt_tokens: of that prompt.
        emitted_count: output tokens that decode is asked to continue behind.
        age_s: time since the ticket was received, by the holder's own clock.
        compatibility: the decode engine's own compatibility text.
        block_size_tokens: the decode engine's block size.
        already_used: whether a ticket of this id was seen before.
    """
    needed = blocks_for(ticket.prompt_tokens, ticket.block_size_tokens)
    if already_used:
        return "ticket was used before"
    if not age_s < ticket.lease_s:  # a lease that is no number has ended
        return f"lease ended: {age_s:.3f} s old, lease {ticket.lease_s:.3f} s"
    if ticket.digest != digest:
        return "ticket belongs to another prompt"
    if ticket.prompt_tokens != prompt_tokens:
        return f"ticket is for {ticket.prompt_tokens} tokens, the prompt has {prompt_tokens}"
    if emitted_count > 1:
        return f"ticket holds the KV of its prompt, not of {emitted_count} emitted tokens"
    if ticket.compatibility != compatibility:
        return f"KV layouts differ: {ticket.compatibility!r} cannot be read as {compatibility!r}"
    if ticket.block_size_tokens != block_size_tokens:
        return f"block sizes differ: {ticket.block_size_tokens} and {block_size_tokens} tokens"
    if ticket.block_count != needed:
        return f"ticket names {ticket.block_count} blocks, the prompt needs {needed}"
    checked = [check.block_index for check in ticket.checks]
    if (
        len(checked) > CHECKS_MAX
        or checked != sorted(set(checked))
        or not all(0 <= i < needed for i in checked)
    ):
        return f"ticket fingerprints the blocks {checked[: CHECKS_MAX + 1]}, the prompt has {needed}"
    return None
