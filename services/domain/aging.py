"""What a prompt that waits counts for in a queue that serves short ones first.

Comes in: prefill times, waits. Goes out: a time to compare by. Invariant: a longer wait never makes it more.
Not here: the queues (`services.prefill.ordering`, `services.replay.policies.baton_order`).
"""


def aged_s(work_s: float, prefill_s: float, waited_s: float) -> float:
    """Divide work by the response ratio of its prompt, `(prefill_s + waited_s) / prefill_s`.

    So length and waiting both count. Source: P. Brinch Hansen, "An analysis of response ratio scheduling",
    1971 (highest response ratio next).

    Args:
        work_s: what the prompt counts for when it has not waited; mostly its prefill.
        prefill_s: what its prefill takes, > 0.
        waited_s: since it came, >= 0.
    """
    return work_s * prefill_s / (prefill_s + waited_s)
