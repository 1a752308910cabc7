"""Which sequences move on while they decode: a worker that few of them hold is emptied.

Comes in: what each worker holds, how long a step may become. Goes out: moves. Sequences end where they will,
so after a while more workers decode than what is there needs, each with a few. Once all that the emptiest of
them holds fits elsewhere, within the limit that new sequences have, it moves there, and a worker is free to
prefill that had to be stalled before.
Invariants: all of a worker moves or nothing; no worker is filled beyond the limit; what takes long to copy,
beside the time an output takes, stays. Not here: how they change over (`services.replay.moves`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.replay.policy import Move, Running
from services.replay.presets import EngineTiming

COPY_FRAC_MAX = 0.1
"""Share of the time for which an output is written that copying a worker's sequences may take: what is copied
for longer is mostly over before it has paid."""


@dataclass(slots=True, kw_only=True)
class Holding:
    """What one worker decodes, with what was promised to it."""

    worker: int
    sequence_count: int
    context_tokens: int
    free_blocks: int
    is_source: bool
    """It may be emptied: nothing is promised to it, nothing leaves it."""
    is_target: bool
    """It may take more: it prefills nothing that those who come would have to wait for, nothing leaves it."""


def choose_moves(
    holdings: Sequence[Holding],
    running: Sequence[Sequence[Running]],
    *,
    timing: EngineTiming,
    decoders: int,
    limit_s: float,
    growth_blocks: int,
    life_s: float,
) -> list[Move]:
    """Choose what moves.

    Args:
        holdings: of every worker.
        running: sequences of every worker, by its number.
        timing: of every worker.
        decoders: workers that should decode.
        limit_s: how long a step may become.
        growth_blocks: left free for the output of each sequence.
        life_s: for which an output is written.

    Returns:
        All sequences of one worker, or none; the longest first.
    """
    decoding = [one for one in holdings if one.sequence_count]
    if len(decoding) <= decoders:
        return []
    source = min(
        (one for one in decoding if one.is_source),
        key=lambda one: (one.context_tokens, one.worker),
        default=None,
    )
    if source is None:
        return []
    leaving = sorted(running[source.worker], key=lambda one: (-one.context_tokens, one.job.index))
    tokens = sum(one.context_tokens for one in leaving)
    if timing.performance.transfer_s(tokens * timing.kv_bytes_per_token) > COPY_FRAC_MAX * life_s:
        return []
    targets = sorted(
        (one for one in decoding if one.is_target and one is not source),
        key=lambda one: (-one.context_tokens, one.worker),
    )
    moves: list[Move] = []
    for sequence in leaving:
        target = next((one for one in targets if _fits(one, sequence, timing, limit_s, growth_blocks)), None)
        if target is None:
            return []
        target.sequence_count += 1
        target.context_tokens += sequence.context_tokens
        target.free_blocks -= _blocks(sequence, timing)
        moves.append(Move(job=sequence.job, source=source.worker, target=target.worker))
    return moves


def _blocks(sequence: Running, timing: EngineTiming) -> int:
    return -(-sequence.context_tokens // timing.block_size_tokens)


def _fits(
    target: Holding, sequence: Running, timing: EngineTiming, limit_s: float, growth_blocks: int
) -> bool:
    step_s = timing.performance.decode_s(
        sequence_count=target.sequence_count + 1,
        context_tokens=target.context_tokens + sequence.context_tokens,
    )
    return step_s <= limit_s and target.free_blocks > _blocks(sequence, timing) + growth_blocks
