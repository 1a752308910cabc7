"""Waiting for room and for the queue, of all workers in one go.

Comes in: columns of a lineup. Goes out: columns of seconds. Invariant: each entry is to the last bit what
`prices.room_wait_s` and `prices.backlog_s` say of that worker.
Not here: the same of one worker (`services.router.fleet.prices`).
"""

import math

import numpy as np

from services.router.fleet.columns import Column, Mask, Number, Part, Traits
from services.router.pricing.queue_load import QueueLoad


def room_waits_s(
    part: Part, *, shortage_blocks: Column, shortage_sequences: Column, output_tokens: int, where: Mask
) -> Column:
    """Time until enough running sequences have ended for one more to fit; see `prices.room_wait_s`.

    Args:
        part: the workers.
        shortage_blocks: blocks missing, <= 0 where none are.
        shortage_sequences: places in a step missing, <= 0 where none are.
        output_tokens: length of an output.
        where: which workers are asked, all with a shortage; 0 for the others.
    """
    loads = part.loads
    ends = np.ceil(np.maximum(shortage_blocks / loads.freed_blocks, shortage_sequences))
    wait_s: Column = (loads.end_step_s * output_tokens + loads.end_s) * ends * where
    return wait_s


def prefill_room_waits_s(part: Part, prompt_tokens: int) -> Column | None:
    """Time until a prefill worker has memory and a place for a prompt; None where all have.

    Args:
        part: the workers.
        prompt_tokens: length of the prompt; it also writes one token.
    """
    loads = part.loads
    prompt_blocks = -(-(prompt_tokens + 1.0) // part.traits.block_size_tokens)
    if part.all_have_room(prompt_blocks):
        return None
    short_blocks = prompt_blocks - loads.free_blocks
    short = (short_blocks > 0.0) | (loads.free_count <= 0.0)
    if not np.count_nonzero(short):
        return None
    return room_waits_s(
        part,
        shortage_blocks=short_blocks,
        shortage_sequences=1.0 - loads.free_count,
        output_tokens=1,
        where=short,
    )


def queued_s(
    traits: Traits, queue: QueueLoad, *, prefiller_count: int, bound_tokens: Column | None = None
) -> Number:
    """Time behind one worker's share of the queue; see `prices.backlog_s`.

    Args:
        traits: of the prefill workers.
        queue: what waits for any of them; at least one token.
        prefiller_count: workers that share it, >= 1.
        bound_tokens: of it, what waits for each of them in particular, shape [prefillers]; they share the
            rest. None without any.
    """
    shared = queue.waiting_tokens / prefiller_count
    each = max(1, round(shared / max(queue.waiting_count / prefiller_count, 1.0)))
    chunk_s = traits.prefill_token_s * each + traits.prefill_attention_s * each * (each / 2)
    tokens: Number = shared
    whole: Number = float(math.ceil(shared))
    if bound_tokens is not None:
        tokens = max(0.0, queue.waiting_tokens - sum(queue.bound_tokens.values())) / prefiller_count
        tokens = bound_tokens + tokens
        whole = np.ceil(tokens)
    budget = traits.step_tokens_max
    full = np.floor(whole / budget)
    rest = whole - full * budget
    squares = full * budget * budget + rest * rest
    steps_s = (full + (rest > 0.0)) * traits.prefill_step_s + squares * traits.prefill_square_s
    return steps_s + tokens / each * chunk_s
