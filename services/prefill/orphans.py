"""Tasks that nobody waits for any more: their gateway died before it could cancel them.

Comes in: the queue as a worker sees it, and the gateways that are linked to it. Goes out: tasks to remove.
Invariant: a task whose gateway lives is never named: a gateway gives up a task that nobody claims long
before `ORPHAN_S`, and takes it out itself. Not here: removing (`services.prefill.lookout`).
"""

from collections.abc import Iterable, Set

from services.domain.ids import GatewayId, TaskId
from services.domain.task import QueuedTask

ORPHAN_S = 30.0
"""Age at which an unclaimed task of a gateway that is not linked here has no gateway: several times what a
gateway waits for a claim (`conductor.claim_patience_s`) and what a link takes to come back."""


def orphans(tasks: Iterable[QueuedTask], reachable: Set[GatewayId]) -> tuple[TaskId, ...]:
    """Name tasks that can be taken out of the queue, in its order."""
    return tuple(
        queued.record.task_id
        for queued in tasks
        if queued.claim is None and queued.waited_s > ORPHAN_S and queued.record.gateway_id not in reachable
    )
