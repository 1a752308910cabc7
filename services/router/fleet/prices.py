"""Work in seconds, by the performance model each worker announces.

Comes in: tokens, sequences, a `PerformanceModel`. Goes out: predicted seconds of waiting, prefilling,
stalling and transferring. Invariant: no time here has a source other than the performance model.
Not here: which of the prices decides (`services.router.placement`).
"""

import math

from services.domain.performance import PerformanceModel, PrefillChunk


def backlog_s(
    performance: PerformanceModel,
    *,
    tokens: float,
    prompt_count: float,
    step_tokens_max: int,
    decode_step_s: float = 0.0,
) -> float:
    """Time to compute several waiting prompts that share steps.

    Args:
        performance: of the engine.
        tokens: uncached tokens of all of them, >= 0; a share of a queue need not be whole.
        prompt_count: how many they are; taken as equally long, since only the sum is known.
        step_tokens_max: most new tokens per step.
        decode_step_s: decode part that each of the steps carries too.
    """
    if tokens <= 0:
        return 0.0
    # The attention part of the model is quadratic in one prompt, so the sum must not be priced as one.
    each = max(1, round(tokens / max(prompt_count, 1.0)))
    chunks_s = tokens / each * performance.chunk_s(PrefillChunk(new_tokens=each, context_tokens=0))
    steps = math.ceil(tokens / step_tokens_max)
    steps_s = performance.steps_s(tokens=math.ceil(tokens), step_tokens_max=step_tokens_max)
    return steps * decode_step_s + steps_s + chunks_s


def room_wait_s(
    performance: PerformanceModel,
    *,
    shortage_blocks: int,
    shortage_sequences: int,
    used_blocks: int,
    running_count: int,
    step_s: float,
    output_tokens: int,
) -> float:
    """Time until enough running sequences have ended for one more to fit; 0 without a shortage.

    Running sequences are taken to end evenly over the length of an output. With none running, memory is
    held by handoffs that somebody is about to read, each for the fixed cost of a handoff.

    Args:
        performance: of the engine.
        shortage_blocks: blocks missing, <= 0 when none are.
        shortage_sequences: places in a step missing, <= 0 when none are.
        used_blocks: blocks in use by what runs.
        running_count: sequences that decode.
        step_s: their step.
        output_tokens: length of an output.
    """
    if shortage_blocks <= 0 and shortage_sequences <= 0:
        return 0.0
    blocks_each = max(1, used_blocks // max(1, running_count))
    ends = max(-(-shortage_blocks // blocks_each), shortage_sequences)
    if running_count == 0:
        return ends * performance.handoff_s
    return ends * (step_s / running_count * output_tokens)


def preemption_s(
    performance: PerformanceModel,
    *,
    free_blocks: int,
    block_size_tokens: int,
    running_count: int,
    context_tokens: int,
    output_tokens: int,
    step_tokens_max: int,
) -> float:
    """Expected time lost because the memory fills up before a sequence ends.

    Every running sequence grows by a token a step, so the memory is full after
    `free_tokens / running_count` steps; for the share of the output behind that moment a sequence is
    preempted and its context computed again.

    Args:
        performance: of the engine.
        free_blocks: blocks left once the sequence is in, >= 0.
        block_size_tokens: tokens per block.
        running_count: sequences that decode, this one included, >= 1.
        context_tokens: KV tokens of all of them.
        output_tokens: most tokens the sequence still writes, >= 1.
        step_tokens_max: most new tokens per step.
    """
    steps_until_full = free_blocks * block_size_tokens / running_count
    share = max(0.0, 1.0 - steps_until_full / output_tokens)
    if share == 0.0:
        return 0.0
    mean_tokens = max(1, context_tokens // running_count)
    return share * performance.prompt_s(
        prompt_tokens=mean_tokens, cached_tokens=0, step_tokens_max=step_tokens_max
    )
