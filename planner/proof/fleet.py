"""Workers of the fluid cluster: what each costs from its creation to its deletion, and which role it has.

Comes in: orders and flips. Goes out: workers that serve, GPU-seconds. Invariant: a worker is paid from the
moment it is asked for until it is gone; one that drains or changes its role finishes what it has first.
Not here: what they have to do (`fluid`), who orders them (a scaler).
"""

from collections import Counter
from dataclasses import dataclass, field

from planner.decision import Decision
from planner.observation import PoolState
from services.domain.worker import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """A worker on its way."""

    phase: Phase
    asked_s: float
    ready_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """A worker that finishes what it has in one role: then it is gone, or has the other role."""

    phase: Phase
    until_s: float
    becomes: Phase | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Workers that serve now; those that finish decoding carry half of what others do, on the average."""

    prefill: float
    decode: float


@dataclass(slots=True, kw_only=True)
class Fleet:
    """All workers.

    Attributes:
        startup_s: from asking for a worker until it takes work.
        kind: of all of them.
        ready: by role.
        starting: the oldest first.
        leaving: in no order.
        flips_count: roles changed so far.
        started_count: workers asked for so far.
        removed_count: workers sent away so far.
        actions_count: decisions that asked for workers or sent some away.
    """

    startup_s: float
    kind: str = "default"
    ready: Counter[Phase] = field(default_factory=Counter)
    starting: list[Starting] = field(default_factory=list)
    leaving: list[Leaving] = field(default_factory=list)
    flips_count: int = 0
    started_count: int = 0
    removed_count: int = 0
    actions_count: int = 0

    @property
    def paid_count(self) -> int:
        """Workers that cost money now."""
        return self.ready.total() + len(self.starting) + len(self.leaving)

    def capacity(self) -> Capacity:
        """Say who serves now."""
        finishing = sum(worker.phase is Phase.DECODE for worker in self.leaving)
        return Capacity(
            prefill=float(self.ready[Phase.PREFILL]), decode=self.ready[Phase.DECODE] + finishing / 2
        )

    def pools(self, now_s: float) -> tuple[PoolState, ...]:
        """Tell a scaler of the pools; a worker that changes its role counts to the new one as starting."""
        states = []
        for phase in (Phase.PREFILL, Phase.DECODE):
            ages_s = [now_s - worker.asked_s for worker in self.starting if worker.phase is phase]
            states.append(
                PoolState(
                    phase=phase,
                    kind=self.kind,
                    ready_count=self.ready[phase] + sum(worker.becomes is phase for worker in self.leaving),
                    starting_s=tuple(ages_s),
                    draining_count=sum(
                        worker.becomes is None and worker.phase is phase for worker in self.leaving
                    ),
                )
            )
        return tuple(states)

    def advance(self, now_s: float) -> None:
        """Let workers become ready, gone, or of another role."""
        for worker in self.starting:
            if worker.ready_s <= now_s + 1e-9:
                self.ready[worker.phase] += 1
        self.starting = [worker for worker in self.starting if worker.ready_s > now_s + 1e-9]
        for left in self.leaving:
            if left.until_s <= now_s + 1e-9 and left.becomes is not None:
                self.ready[left.becomes] += 1
        self.leaving = [left for left in self.leaving if left.until_s > now_s + 1e-9]

    def obey(self, decision: Decision, now_s: float, finish_s: dict[Phase, float]) -> None:
        """Carry out a decision: flips first, then workers asked for, called off or sent away.

        Args:
            decision: what is wanted.
            now_s: present.
            finish_s: how long a worker of each role takes to finish what it has.
        """
        for flip in decision.flips:
            self._flip(flip.source, flip.worker_count, now_s, finish_s[flip.source])
        changed = 0
        for order in decision.orders:
            pool = next(state for state in self.pools(now_s) if state.phase is order.phase)
            more = order.worker_count - pool.ordered_count
            if more > 0:
                self._start(order.phase, more, now_s)
            elif more < 0:
                self._remove(order.phase, -more, now_s, finish_s[order.phase])
            changed += abs(more)
        self.actions_count += changed > 0

    def _flip(self, source: Phase, count: int, now_s: float, finish_s: float) -> None:
        count = min(count, self.ready[source])
        self.ready[source] -= count
        self.flips_count += count
        self.leaving += [Leaving(phase=source, until_s=now_s + finish_s, becomes=source.other)] * count

    def _start(self, phase: Phase, count: int, now_s: float) -> None:
        self.started_count += count
        self.starting += [
            Starting(phase=phase, asked_s=now_s, ready_s=now_s + self.startup_s) for _ in range(count)
        ]

    def _remove(self, phase: Phase, count: int, now_s: float, finish_s: float) -> None:
        """Call off the youngest starts first, then drain workers that serve."""
        self.removed_count += count
        for worker in reversed([worker for worker in self.starting if worker.phase is phase]):
            if count == 0:
                return
            self.starting.remove(worker)
            count -= 1
        drained = min(count, self.ready[phase])
        self.ready[phase] -= drained
        self.leaving += [Leaving(phase=phase, until_s=now_s + finish_s, becomes=None)] * drained
