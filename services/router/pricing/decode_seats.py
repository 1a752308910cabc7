"""A handed-over sequence at each worker that decodes, priced in columns.

Comes in: decode workers in columns, a query. Goes out: columns of seconds. Invariant: no operation mixes
workers, so equal workers have equal prices to the last bit, wherever they stand.
Not here: which one is taken (`services.router.decode_placement`), a prompt that is still to be computed
(`services.router.pricing.seats`).
"""

from dataclasses import dataclass

import numpy as np

from services.domain.placement import DecodeQuery
from services.router.fleet.columns import Column, Number, Part
from services.router.pricing.waits import room_waits_s


@dataclass(slots=True, kw_only=True)
class DecodeSeats:
    """The sequence at each decode worker; shape [decoders].

    Attributes:
        cost_s: what is compared.
        step_s: the worker's step with the sequence in it.
        wait_s: until there is memory and a place for it; None where all have both.
        kv_free_frac: share of the KV memory that stays free.
    """

    cost_s: Column
    step_s: Column
    wait_s: Column | None
    kv_free_frac: Column


def price_seats(
    part: Part, query: DecodeQuery, *, tpot_s: float, holder: int | None, bends: bool
) -> DecodeSeats:
    """Price a sequence at each worker.

    Cost is the predicted step with the sequence added, plus what that step exceeds the TPOT target by
    for everybody in it, plus the time in which KV moves (none to who holds it), plus prompts that the worker
    still has to prefill (they stall the sequence), plus the wait for memory, plus the expected price of being
    preempted when memory runs out.

    Args:
        part: the workers.
        query: what is to be continued.
        tpot_s: what a step should take.
        holder: place of the worker that holds its KV; None where that one does not decode.
        bends: whether a performance model has a square of its own.
    """
    loads, traits = part.loads, part.traits
    running = loads.running_count + 1.0
    context = loads.context_tokens + query.context_tokens
    step_s: Column = traits.decode_step_s + traits.decode_sequence_s * running
    step_s += traits.decode_context_token_s * context
    if bends:
        step_s += traits.decode_context_square_s * context * context
    if isinstance(traits.decode_least_s, np.ndarray) or traits.decode_least_s:
        step_s = np.maximum(traits.decode_least_s, step_s)
    there_s = step_s
    if step_s[step_s.argmax()] > tpot_s:
        there_s = step_s + running * np.maximum(0.0, step_s - tpot_s)
    cost_s = there_s + _moved_s(part, query)
    if holder is not None:
        cost_s[holder] = there_s[holder]
    cost_s += loads.backlog_s
    output_tokens = query.output_tokens_expected or query.output_tokens_max
    blocks = -(-(query.context_tokens + 1.0) // traits.block_size_tokens)
    wait_s: Column | None = None
    if not part.all_have_room(blocks):
        wait_s = _waits_s(part, blocks, output_tokens)
        cost_s += wait_s
    free_blocks = np.maximum(loads.free_blocks - blocks, 0.0)
    steps_until_full = free_blocks * traits.block_size_tokens / running
    if steps_until_full[steps_until_full.argmin()] < output_tokens:
        cost_s += _preempted_s(
            part, np.maximum(0.0, 1.0 - steps_until_full / output_tokens), context, running
        )
    return DecodeSeats(
        cost_s=cost_s, step_s=step_s, wait_s=wait_s, kv_free_frac=free_blocks / traits.kv_blocks
    )


def _moved_s(part: Part, query: DecodeQuery) -> Number:
    traits = part.traits
    return traits.handoff_s + query.context_tokens * traits.kv_bytes_per_token / traits.transfer_bytes_per_s


def _waits_s(part: Part, blocks: Number, output_tokens: int) -> Column:
    """Time until each has memory and a place; see `prices.room_wait_s`."""
    short_blocks = blocks - part.loads.free_blocks
    short_count = 1.0 - part.loads.free_count
    return room_waits_s(
        part,
        shortage_blocks=short_blocks,
        shortage_sequences=short_count,
        output_tokens=output_tokens,
        where=(short_blocks > 0.0) | (short_count > 0.0),
    )


def _preempted_s(part: Part, share: Column, context: Column, running: Column) -> Column:
    """Expected time lost because memory fills up before the sequence ends; see `prices.preemption_s`.

    Args:
        part: the workers.
        share: of the output, what is written after that.
        context: KV tokens of all that decode, with the sequence.
        running: how many these are.
    """
    traits = part.traits
    budget = traits.step_tokens_max
    mean = np.maximum(1.0, context // running)
    full = mean // budget
    rest = mean - full * budget
    steps_s = (full + (rest > 0.0)) * traits.prefill_step_s
    steps_s += (full * budget * budget + rest * rest) * traits.prefill_square_s
    chunk_s = traits.prefill_token_s * mean + traits.prefill_attention_s * mean * (mean / 2.0)
    lost_s: Column = share * (steps_s + chunk_s)
    return lost_s
