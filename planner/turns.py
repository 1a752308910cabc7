"""Workers whose role is another than the one they were launched for, and what that makes of pools and orders.

Comes in: statuses of workers, pools as an orchestrator counts them, decisions. Goes out: pools by the roles
that workers have, who is to turn, sizes to order. Invariant: turning changes no size; what is ordered adds up
to what was decided. An orchestrator may take another worker away than would be best: the next look sees who
is left, and turns again. Not here: turning (`planner.targets.turning`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.decision import Decision, PoolOrder
from planner.observation import PoolState
from services.domain.ids import WorkerId
from services.domain.worker import Lifecycle, Phase, WorkerStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where workers of one role are launched.

    Attributes:
        phase: the role that a new life of them has.
        prefix: with which all their names begin, and no others'.
    """

    phase: Phase
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acting:
    """A worker that takes work.

    Attributes:
        status: its last one.
        home: the role it was launched for.
        role: the role it has, or was just ordered to have.
    """

    status: WorkerStatus
    home: Phase
    role: Phase


def role_of(status: WorkerStatus) -> Phase:
    """Say which role a worker counts to; one that serves both phases counts to decode."""
    return Phase.DECODE if Phase.DECODE in status.phases else Phase.PREFILL


def acting(
    statuses: Iterable[WorkerStatus], homes: Sequence[Home], ordered: Mapping[WorkerId, Phase]
) -> tuple[Acting, ...]:
    """List the workers of these homes that take work, by name.

    Args:
        statuses: of all workers.
        homes: where workers of interest are launched; the longest prefix counts.
        ordered: roles that were ordered and that statuses need not show yet, by worker.
    """
    found: list[Acting] = []
    for status in sorted(statuses, key=lambda status: status.worker_id):
        home = max(
            (home for home in homes if status.worker_id.startswith(home.prefix)),
            key=lambda home: len(home.prefix),
            default=None,
        )
        if home is not None and status.lifecycle is Lifecycle.READY:
            role = ordered.get(status.worker_id, role_of(status))
            found.append(Acting(status=status, home=home.phase, role=role))
    return tuple(found)


def by_role(pools: Sequence[PoolState], workers: Sequence[Acting]) -> tuple[PoolState, ...]:
    """Count ready workers where they act instead of where they were launched; both pools must be there."""
    ready = {pool.phase: pool.ready_count for pool in pools}
    away = {
        phase: min(ready[phase], sum(one.home is phase and one.role is not phase for one in workers))
        for phase in ready
    }
    return tuple(
        replace(pool, ready_count=pool.ready_count - away[pool.phase] + away[pool.phase.other])
        for pool in pools
    )


def chosen(workers: Sequence[Acting], source: Phase, count: int) -> tuple[Acting, ...]:
    """Choose who turns: those away from home first, then whoever has the least to finish."""

    def rank(one: Acting) -> tuple[bool, int, str]:
        load = one.status.load
        return one.home is source, load.running_count + load.waiting_count, one.status.worker_id

    return tuple(sorted((one for one in workers if one.role is source), key=rank)[:count])


def launched(
    decision: Decision, launched_pools: Sequence[PoolState], role_pools: Sequence[PoolState]
) -> tuple[PoolOrder, ...]:
    """Translate the sizes of a decision into sizes of what launches workers.

    Args:
        decision: by role, after its flips.
        launched_pools: as the orchestrator counts them.
        role_pools: the same by role, as the decision saw them.
    """
    size = {pool.phase: pool.ordered_count for pool in launched_pools}
    before = {pool.phase: pool.ordered_count for pool in role_pools}
    for flip in decision.flips:
        before[flip.source] -= flip.worker_count
        before[flip.source.other] += flip.worker_count
    for order in decision.orders:
        size[order.phase] += order.worker_count - before[order.phase]
    for phase in Phase:  # more are given back than were launched there
        other = phase.other
        if size[phase] < 0:
            size[other], size[phase] = max(0, size[other] + size[phase]), 0
    return tuple(replace(order, worker_count=size[order.phase]) for order in decision.orders)
