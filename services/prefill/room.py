"""How much of the queue one worker holds at a time.

Comes in: what its prompts still cost. Goes out: whether it should claim one more. Late binding: about one
step's worth of work is in the engine, so that its next step begins at once; the rest stays in the queue,
where the worker that fits best can take it. Invariant: what is cached costs nothing, so a worker fills a
step with many prompts of which it holds most, and pays the fixed cost of a step once for all of them.
Not here: which task it claims (`services.prefill.ordering`).
"""

from collections.abc import Sequence


def has_room(uncached_tokens: Sequence[int], *, step_tokens_max: int, sequences_max: int) -> bool:
    """Tell whether a worker should claim another prompt.

    Args:
        uncached_tokens: shape [prompts claimed and not computed yet], tokens that each has to compute.
        step_tokens_max: most prompt tokens per engine step.
        sequences_max: most sequences in one step.
    """
    return len(uncached_tokens) < sequences_max and sum(uncached_tokens) < step_tokens_max
