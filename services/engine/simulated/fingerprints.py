"""Fingerprints of simulated KV blocks: of the tokens whose KV a block holds, since it holds nothing else.

Comes in: sequences, tickets, what was flipped on the way. Goes out: a ticket's checks, and what comparing
them found. Invariant: blocks that arrive as they were computed match. Not here: transfers (`pulls`).
"""

from collections.abc import Container

from services.domain.blocks import blocks_for, chain
from services.domain.handoff import Ticket
from services.domain.integrity import BlockCheck, KvChecked, sample_blocks
from services.engine.simulated.sequence import Sequence

_FLIP = 2**63


def fingerprint_sample(
    sequence: Sequence, *, block_size_tokens: int, handoff_frac: float, blocks_max: int
) -> tuple[BlockCheck, ...]:
    """Fingerprint a sample of a prompt's blocks; see `domain.integrity.sample_blocks`."""
    sample = sample_blocks(
        sequence.request_id,
        block_count=blocks_for(sequence.request.prompt_tokens, block_size_tokens),
        handoff_frac=handoff_frac,
        blocks_max=blocks_max,
    )
    return tuple(
        BlockCheck(block_index=index, digests=(_fingerprint(sequence, index, block_size_tokens),))
        for index in sample
    )


def compare(
    sequence: Sequence, ticket: Ticket, *, first_block: int, flipped: Container[int], block_size_tokens: int
) -> KvChecked | None:
    """Compare what arrived with what the ticket says.

    Args:
        sequence: whose prompt was pulled.
        ticket: of that prompt.
        first_block: blocks before it were not pulled.
        flipped: block indexes whose content changed on the way.
        block_size_tokens: of this engine.

    Returns:
        None when no fingerprinted block was pulled.
    """
    pulled = [check for check in ticket.checks if check.block_index >= first_block]
    if not pulled:
        return None
    matched = all(
        check.digests
        == (
            _fingerprint(sequence, check.block_index, block_size_tokens)
            ^ (_FLIP * (check.block_index in flipped)),
        )
        for check in pulled
    )
    return KvChecked(source=ticket.prefill_worker_id, epoch=ticket.epoch, matched=matched)


def _fingerprint(sequence: Sequence, index: int, block_size_tokens: int) -> int:
    prompt = sequence.request.prompt_token_ids
    full = sequence.full_blocks(len(prompt), block_size_tokens)
    if index < len(full):
        return full[index]
    parent = full[-1] if full else sequence.holding.root
    return chain(parent, prompt[len(full) * block_size_tokens :])
