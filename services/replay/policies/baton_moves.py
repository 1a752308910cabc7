"""Which sequences move on while they decode: few holders are too full, or one of many holds little.

Comes in: what each worker holds, how many should decode, how long a step may become. Goes out: moves.
Sequences end where they will, so after a while more workers decode than what is there needs, each with a few.
Once all that the emptiest of them holds fits elsewhere, within the limit that new sequences have, it moves
there, and a worker is free to prefill that had to be stalled before. After a burst it is the other way: few
workers decode what it left behind, in long steps, and others have nothing to do. Then the fullest gives to
one of those until both steps are alike.
Invariants: no worker is filled beyond the limit; a worker is emptied or stays as it is, unless it was beyond
the limit; what takes long to copy, beside the time an output takes, stays. Not here: how they change over
(`services.replay.moves`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.replay.policy import Move, Running
from services.replay.presets import EngineTiming

COPY_FRAC_MAX = 0.1
"""Share of the time for which an output is written that copying what moves may take: what is copied for
longer is mostly over before it has paid."""


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
        All sequences of one worker, the longest first; or, where too few decode, the shortest of the fullest
        one; or none.
    """
    rules = _Rules(
        timing=timing, limit_s=limit_s, growth_blocks=growth_blocks, copy_max_s=COPY_FRAC_MAX * life_s
    )
    decoding = [one for one in holdings if one.sequence_count]
    if decoding and len(decoding) < decoders:
        source = max(decoding, key=lambda one: (rules.step_s(one), -one.worker))
        target = next((one for one in holdings if not one.sequence_count and one.is_target), None)
        if target is None or rules.step_s(source) <= limit_s:
            return []
        return _shared(source, target, running[source.worker], rules)
    sources = [one for one in decoding if one.is_source]
    if len(decoding) <= decoders or not sources:
        return []
    source = min(sources, key=lambda one: (one.context_tokens, one.worker))
    targets = sorted(
        (one for one in decoding if one.is_target and one is not source),
        key=lambda one: (-one.context_tokens, one.worker),
    )
    return _emptied(source, targets, running[source.worker], rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What moves must keep to."""

    timing: EngineTiming
    limit_s: float
    growth_blocks: int
    copy_max_s: float

    def step_s(self, one: Holding) -> float:
        return self.timing.performance.decode_s(
            sequence_count=one.sequence_count, context_tokens=one.context_tokens
        )

    def copy_s(self, tokens: int) -> float:
        return self.timing.performance.transfer_s(tokens * self.timing.kv_bytes_per_token)

    def blocks(self, sequence: Running) -> int:
        return -(-sequence.context_tokens // self.timing.block_size_tokens)

    def fits(self, target: Holding, sequence: Running) -> bool:
        step_s = self.timing.performance.decode_s(
            sequence_count=target.sequence_count + 1,
            context_tokens=target.context_tokens + sequence.context_tokens,
        )
        return step_s <= self.limit_s and target.free_blocks > self.blocks(sequence) + self.growth_blocks

    def give(self, target: Holding, sequence: Running) -> None:
        target.sequence_count += 1
        target.context_tokens += sequence.context_tokens
        target.free_blocks -= self.blocks(sequence)


def _emptied(
    source: Holding, targets: Sequence[Holding], running: Sequence[Running], rules: _Rules
) -> list[Move]:
    """Move all that a worker holds, if it fits."""
    if rules.copy_s(sum(one.context_tokens for one in running)) > rules.copy_max_s:
        return []
    moves: list[Move] = []
    for sequence in sorted(running, key=lambda one: (-one.context_tokens, one.job.index)):
        target = next((one for one in targets if rules.fits(one, sequence)), None)
        if target is None:
            return []
        rules.give(target, sequence)
        moves.append(Move(job=sequence.job, source=source.worker, target=target.worker))
    return moves


def _shared(source: Holding, target: Holding, running: Sequence[Running], rules: _Rules) -> list[Move]:
    """Move sequences to a worker that has none until the steps of both are alike."""
    moves: list[Move] = []
    copy_s = 0.0
    for sequence in sorted(running, key=lambda one: (one.context_tokens, one.job.index)):
        copy_s += rules.copy_s(sequence.context_tokens)
        if copy_s > rules.copy_max_s or not rules.fits(target, sequence):
            break
        source.sequence_count -= 1
        source.context_tokens -= sequence.context_tokens
        rules.give(target, sequence)
        if rules.step_s(target) > rules.step_s(source):
            break
        moves.append(Move(job=sequence.job, source=source.worker, target=target.worker))
    return moves
