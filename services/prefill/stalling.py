"""What a task costs those who decode on the worker that looks at it.

Comes in: their accounts, once per look at the queue; tasks. Goes out: per task the seconds that it should be
left to others. A prompt that computes where others decode stalls them, so the worker bids by waiting: it
takes the task once that has waited for as many seconds of TTFT as the stall is worth
(`services.domain.stalls`). Whoever can do it for less has taken it by then; nobody has to be asked.
Invariant: a function of values; a task is left for good only while somebody who decodes nothing may take it.
Not here: the order of tasks (`services.prefill.ordering`).
"""

from collections.abc import Sequence

from services.domain.stalls import Decoding, stall_price_s
from services.domain.task import QueuedTask


def stall_patience_s(
    queued: QueuedTask,
    *,
    decoding: Sequence[Decoding],
    prefill_s: float,
    chunk_count: int,
    has_free_peer: bool,
) -> float | None:
    """Say for how long a task is left to others because of who decodes here.

    Args:
        queued: the task.
        decoding: those who decode here.
        prefill_s: what its prefill takes here.
        chunk_count: engine steps of its prefill.
        has_free_peer: whether some worker that may prefill decodes nothing.

    Returns:
        Seconds from the task's arrival; None: for good, somebody here could not bear it.
    """
    targets = queued.record.targets
    if not decoding or targets is None:
        return 0.0
    price_s = stall_price_s(decoding, stall_s=prefill_s, stalls_count=chunk_count, targets=targets)
    if price_s is not None:
        return price_s
    if has_free_peer:
        return None
    return max(0.0, queued.record.ttft_target_s - prefill_s)  # nobody else: as late as is in time
