"""Pools of workers as their launcher has them, and what it may be asked to make of them.

Comes in: nothing. Goes out: frozen values that cross a process as JSON. Invariant: only durations and
counts; a version names one state of all targets, so that an order made for another state can be refused.
Not here: the launcher (`services.cluster`), who decides (`planner`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.domain.worker import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedWorker:
    """One worker process.

    Attributes:
        name: its worker id.
        phases: the role it is to have; it takes it at once, or when it has started.
        standing: starting, ready or draining.
        for_s: since it was asked for, started again, found ready or asked to go.
    """

    name: str
    phases: tuple[Phase, ...]
    standing: str
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedPool:
    """Workers of one role; soft-roled ones count to decode.

    Attributes:
        phase: the role.
        ready_count: workers that take work.
        starting_s: of each worker on its way, how long ago it was asked for.
        draining_count: workers that finish what they have and go.
        is_held: a person keeps this pool as it is.
    """

    phase: Phase
    ready_count: int
    starting_s: tuple[float, ...]
    draining_count: int
    is_held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """All pools at one moment.

    Attributes:
        version: of the targets; another one after each change.
        pools: one per role.
        workers: all of them, in the order in which they were asked for.
        start_s: from asking for a worker until it took work, the slowest of the last few; None: not seen.
    """

    version: int
    pools: tuple[LaunchedPool, ...]
    workers: tuple[LaunchedWorker, ...]
    start_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOrder:
    """What is to become of the pools; all of it, or nothing.

    Attributes:
        version: state of the targets that this was decided for; None takes whatever there is.
        turns: workers that leave a role for the other one, by the role they leave; done first.
        roles: phases that workers are to have, by name; done next.
        sizes: workers that each role is to have after that, ready and starting ones together.
        holds: roles that a person keeps as they are from now on, or no longer.
    """

    version: int | None = None
    turns: Mapping[Phase, int] = field(default_factory=dict)
    roles: Mapping[str, tuple[Phase, ...]] = field(default_factory=dict)
    sizes: Mapping[Phase, int] = field(default_factory=dict)
    holds: Mapping[Phase, bool] = field(default_factory=dict)
