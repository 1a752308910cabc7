"""What workers there are, in a decision that is being made.

Comes in: pools, limits. Goes out: counts, by worker and by worth; they change as the decision grows.
Invariant: pools that a person holds, or of kinds that no setting names, are counted and never changed.
Not here: what is wanted (`arranger`).
"""

from collections.abc import Mapping

from planner.arranging.kinds import Purse, Worths
from planner.observation import PoolKey, PoolState
from planner.settings import KindSettings, PlannerSettings, RoleLimits
from services.domain.worker import Phase

SMALL = 1e-9
"""Less than this is nothing."""


class Stock:
    """Workers by pool.

    Attributes:
        ready: that take work.
        starting: on their way.
        fixed: pools that stay as they are.
        settling: pools that nobody is turned away from yet.
        flips: workers turned over in this decision, by the pool they leave.
    """

    def __init__(self, settings: PlannerSettings, worths: Worths, pools: tuple[PoolState, ...]) -> None:
        """Take stock.

        Args:
            settings: kinds and limits.
            worths: of the kinds.
            pools: as observed.
        """
        self._settings = settings
        self._worths = worths
        self.ready: dict[PoolKey, int] = {}
        self.starting: dict[PoolKey, int] = {}
        self.fixed: set[PoolKey] = set()
        self.settling: set[PoolKey] = set()
        for pool in pools:
            key = (pool.phase, pool.kind)
            self.ready[key], self.starting[key] = pool.ready_count, len(pool.starting_s)
            if pool.is_held or settings.kind_named(pool.kind) is None:
                self.fixed.add(key)
        self.before = {key: self.ordered(key) for key in self.ready}
        self.flips: dict[PoolKey, int] = {}

    def ready_worth(self, phase: Phase) -> float:
        """Workers of a role that take work, in those of the reference."""
        return self.worth(self.ready, phase)

    def ordered_worth(self, phase: Phase) -> float:
        """The same with those on their way."""
        return self.worth(self.ready, phase) + self.worth(self.starting, phase)

    def worth(self, counts: Mapping[PoolKey, int], phase: Phase) -> float:
        """What counts of pools are worth for a role, in workers of the reference."""
        return sum(count * self._worths.of(*key) for key, count in counts.items() if key[0] is phase)

    def ordered(self, key: PoolKey) -> int:
        """Workers of a pool, those on their way included."""
        return self.ready.get(key, 0) + self.starting.get(key, 0)

    def count(self, phase: Phase) -> int:
        """Workers of a role, over all kinds, those on their way included."""
        return sum(self.ordered(key) for key in self.ready if key[0] is phase)

    def limits(self, phase: Phase) -> RoleLimits:
        """Limits of a role."""
        limits = self._settings.limits
        return limits.prefill if phase is Phase.PREFILL else limits.decode

    def flippable(self, key: PoolKey) -> int:
        """Count the workers of a pool that may be turned over now."""
        phase, kind = key
        target = phase.other
        if key in self.fixed or (target, kind) in self.fixed or key in self.settling:
            return 0
        if self.flips.get((target, kind), 0) > 0:
            return 0
        spare = self.count(phase) - max(1, self.limits(phase).workers_min)
        room = self.limits(target).workers_max - self.count(target)
        return max(0, min(self.ready[key], spare, room))

    def move(self, key: PoolKey, count: int) -> None:
        """Turn workers of a pool over to the other role."""
        target = (key[0].other, key[1])
        self.ready[key] -= count
        self.ready[target] = self.ready.get(target, 0) + count
        self.starting.setdefault(target, 0)
        self.flips[key] = self.flips.get(key, 0) + count

    def purse(self) -> Purse:
        """Say what may still be ordered; below 0 where a limit is passed already."""
        limits = self._settings.limits
        spent = {
            kind.name: sum(self.ordered((phase, kind.name)) for phase in Phase)
            for kind in self._settings.kinds
        }
        infinite = float(self._settings.limits.prefill.workers_max + self._settings.limits.decode.workers_max)
        price = sum(kind.price_per_hour * spent[kind.name] for kind in self._settings.kinds)
        power = sum(kind.power_w * spent[kind.name] for kind in self._settings.kinds)
        dearest = max(kind.price_per_hour for kind in self._settings.kinds)
        strongest = max(kind.power_w for kind in self._settings.kinds)
        started = sum(max(0, self.ordered(key) - self.before.get(key, 0)) for key in self.starting)
        return Purse(
            price=(limits.price_per_hour_max or price + infinite * dearest) - price,
            power_w=(limits.power_w_max or power + infinite * strongest) - power,
            starts=max(0, limits.starts_max - max(0, started - sum(self.flips.values()))),
            left={
                kind.name: (int(infinite) if kind.workers_max is None else kind.workers_max)
                - spent[kind.name]
                for kind in self._settings.kinds
            },
        )

    def dearest(self, phase: Phase) -> str | None:
        """The kind of a role that costs most for what it is worth, of those that may be given back."""
        kinds = [
            kind
            for kind in self._settings.kinds
            if (phase, kind.name) not in self.fixed and self.ordered((phase, kind.name)) > 0
        ]
        if not kinds:
            return None
        return max(kinds, key=lambda kind: (self._price_for_worth(phase, kind), kind.name)).name

    def _price_for_worth(self, phase: Phase, kind: KindSettings) -> float:
        return kind.price_per_hour / self._worths.of(phase, kind.name)

    def is_over_budget(self) -> bool:
        """Whether price or power is beyond its limit."""
        purse = self.purse()
        return purse.price < -SMALL or purse.power_w < -SMALL

    def drop(self, phase: Phase, kind: str | None = None) -> bool:
        """Give a worker of a role back, one on its way first; False where none may go.

        Args:
            phase: the role.
            kind: of the worker; None takes the dearest.
        """
        kind = kind or self.dearest(phase)
        if kind is None or (phase, kind) in self.fixed or self.ordered((phase, kind)) == 0:
            return False
        key = (phase, kind)
        if self.starting.get(key, 0) > 0:
            self.starting[key] -= 1
        else:
            self.ready[key] -= 1
        return True
