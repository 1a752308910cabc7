"""From needs to orders: role flips first, then new replicas, then what is given back.

Comes in: pools, needs now and after a start, what to keep, limits. Goes out: orders, flips, sentences.
Invariant: no order is beyond a limit; flips keep the total; a held pool stays as it is; a worker is never
given back while one is asked for. Not here: how many are needed (`sizing`), for how long (`stabilising`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from planner.decision import Flip, PoolOrder
from planner.kinds import Purse, Worths, cheapest
from planner.observation import PoolState
from planner.settings import KindSettings, PlannerSettings, RoleLimits
from planner.sizing import Needs
from services.domain.worker import Phase

PoolKey = tuple[Phase, str]
SMALL = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a plan is made for; all in workers of the reference kind.

    Attributes:
        now: needed at once.
        later: needed when a replica ordered now is ready.
        kept: to keep at least, of both roles, prefill and decode; since lately needed.
        late_of: share of late requests now, by workers of both roles.
        allowed_late_frac: of it.
        may_stop: whether anything may be given back.
    """

    now: Needs
    later: Needs
    kept: tuple[int, int, int]
    late_of: Callable[[float, float], float]
    allowed_late_frac: float
    may_stop: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """What to do."""

    orders: tuple[PoolOrder, ...]
    flips: tuple[Flip, ...]
    started_count: int
    stopped_count: int
    said: tuple[str, ...]


class Arranger:
    """One decision in the making."""

    def __init__(self, settings: PlannerSettings, worths: Worths, pools: tuple[PoolState, ...]) -> None:
        """Take stock.

        Args:
            settings: kinds and limits.
            worths: of the kinds.
            pools: as observed; those of unknown kinds stay as they are.
        """
        self._settings = settings
        self._worths = worths
        self._ready: dict[PoolKey, int] = {}
        self._starting: dict[PoolKey, int] = {}
        self._fixed: set[PoolKey] = set()
        for pool in pools:
            key = (pool.phase, pool.kind)
            self._ready[key], self._starting[key] = pool.ready_count, len(pool.starting_s)
            if pool.is_held or settings.kind_named(pool.kind) is None:
                self._fixed.add(key)
        self._before = {key: self._ordered(key) for key in self._ready}
        self._flips: dict[PoolKey, int] = {}
        self._said: list[str] = []

    def arrange(self, wanted: Wanted) -> Arrangement:
        """Decide."""
        if self._settings.limits.flips:
            self._flip(wanted)
        started = self._fill_minimum() + self._start(wanted)
        stopped = self._trim()
        if started == 0 and wanted.may_stop:
            stopped += self._stop(wanted)
        return Arrangement(
            orders=tuple(
                PoolOrder(phase=phase, kind=kind, worker_count=self._ordered((phase, kind)))
                for phase, kind in self._ready
            ),
            flips=tuple(
                Flip(kind=kind, source=phase, worker_count=count)
                for (phase, kind), count in self._flips.items()
                if count > 0
            ),
            started_count=started,
            stopped_count=stopped,
            said=tuple(self._said),
        )

    # ------------------------------------------------------------------ what is there

    def ready_worth(self, phase: Phase) -> float:
        """Workers of a role that take work, in those of the reference."""
        return self._worth(self._ready, phase)

    def _ordered_worth(self, phase: Phase) -> float:
        return self._worth(self._ready, phase) + self._worth(self._starting, phase)

    def _worth(self, counts: Mapping[PoolKey, int], phase: Phase) -> float:
        return sum(count * self._worths.of(*key) for key, count in counts.items() if key[0] is phase)

    def _ordered(self, key: PoolKey) -> int:
        return self._ready.get(key, 0) + self._starting.get(key, 0)

    def _count(self, phase: Phase) -> int:
        return sum(self._ordered(key) for key in self._ready if key[0] is phase)

    def _limits(self, phase: Phase) -> RoleLimits:
        limits = self._settings.limits
        return limits.prefill if phase is Phase.PREFILL else limits.decode

    # ------------------------------------------------------------------ flips

    def _flip(self, wanted: Wanted) -> None:
        """Change roles while too many requests are late and a change makes clearly fewer so."""
        if (
            self.ready_worth(Phase.PREFILL) >= wanted.now.prefill
            and self.ready_worth(Phase.DECODE) >= wanted.now.decode
        ):
            return
        late = self._late(wanted)
        while late > wanted.allowed_late_frac:
            options = [found for key in self._ready if (found := self._best_flip(wanted, key)) is not None]
            if not options:
                return
            best, count, key = min(options)
            # Less than the allowance itself is no reason to stir: that is how often a plan may be wrong.
            if best > wanted.allowed_late_frac and best > late - wanted.allowed_late_frac:
                return
            self._move(key, count)
            late = best

    def _best_flip(self, wanted: Wanted, key: PoolKey) -> tuple[float, int, PoolKey] | None:
        """Find the fewest workers of a pool whose turn is enough, or the number that is best if none is."""
        best: tuple[float, int, PoolKey] | None = None
        for count in range(1, self._flippable(key) + 1):
            late = self._late(wanted, key, count)
            if best is None or late < best[0]:
                best = (late, count, key)
            if late <= wanted.allowed_late_frac:
                break
        return best

    def _late(self, wanted: Wanted, flipped: PoolKey | None = None, count: int = 0) -> float:
        prefill, decode = self.ready_worth(Phase.PREFILL), self.ready_worth(Phase.DECODE)
        if flipped is not None:
            away = count * self._worths.of(*flipped)
            to = count * self._worths.of(_other(flipped[0]), flipped[1])
            is_prefill = flipped[0] is Phase.PREFILL
            prefill += -away if is_prefill else to
            decode += to if is_prefill else -away
        return wanted.late_of(prefill, decode)

    def _flippable(self, key: PoolKey) -> int:
        """Count the workers of a pool that may be turned over now."""
        phase, kind = key
        target = _other(phase)
        if key in self._fixed or (target, kind) in self._fixed or self._flips.get((target, kind), 0) > 0:
            return 0
        spare = self._count(phase) - max(1, self._limits(phase).workers_min)
        room = self._limits(target).workers_max - self._count(target)
        return max(0, min(self._ready[key], spare, room))

    def _move(self, key: PoolKey, count: int) -> None:
        target = (_other(key[0]), key[1])
        self._ready[key] -= count
        self._ready[target] = self._ready.get(target, 0) + count
        self._starting.setdefault(target, 0)
        self._flips[key] = self._flips.get(key, 0) + count

    # ------------------------------------------------------------------ starts

    def _fill_minimum(self) -> int:
        lacks = {phase: self._limits(phase).workers_min - self._count(phase) for phase in Phase}
        if max(lacks.values()) <= 0:
            return 0
        purse = self._purse()
        return sum(self._order(phase, float(lack), purse) for phase, lack in lacks.items() if lack > 0)

    def _start(self, wanted: Wanted) -> int:
        lacks = {
            Phase.PREFILL: wanted.later.prefill - self._ordered_worth(Phase.PREFILL),
            Phase.DECODE: wanted.later.decode - self._ordered_worth(Phase.DECODE),
        }
        if self._settings.limits.flips:  # what one role has too much of will be turned over
            total = sum(lacks.values())
            for phase in Phase:
                lacks[phase] = min(lacks[phase], total)
        if max(lacks.values()) <= SMALL:
            return 0
        purse, started = self._purse(), 0
        for phase, lack in lacks.items():
            if lack > SMALL:
                ordered_before = self._ordered_worth(phase)
                started += self._order(phase, lack, purse)
                missing = lack - (self._ordered_worth(phase) - ordered_before)
                if missing > SMALL:
                    self._said.append(
                        f"limits leave {phase.value} {missing:.3g} workers short of what the targets need"
                    )
        return started

    def _order(self, phase: Phase, lack: float, purse: Purse) -> int:
        """Order workers of a role; returns how many."""
        kinds = [kind for kind in self._settings.kinds if (phase, kind.name) not in self._fixed]
        room = self._limits(phase).workers_max - self._count(phase)
        if not kinds or room <= 0:
            return 0
        before, purse.starts = purse.starts, min(purse.starts, room)
        granted = purse.starts
        chosen = cheapest(kinds, self._worths.by_phase[phase], purse, lack)
        purse.starts = before - (granted - purse.starts)
        for kind, count in chosen.items():
            key = (phase, kind)
            self._ready.setdefault(key, 0)
            self._starting[key] = self._starting.get(key, 0) + count
        return sum(chosen.values())

    def _purse(self) -> Purse:
        limits = self._settings.limits
        spent = {
            kind.name: sum(self._ordered((phase, kind.name)) for phase in Phase)
            for kind in self._settings.kinds
        }
        infinite = float(self._settings.limits.prefill.workers_max + self._settings.limits.decode.workers_max)
        price = sum(kind.price_per_hour * spent[kind.name] for kind in self._settings.kinds)
        power = sum(kind.power_w * spent[kind.name] for kind in self._settings.kinds)
        dearest = max(kind.price_per_hour for kind in self._settings.kinds)
        strongest = max(kind.power_w for kind in self._settings.kinds)
        started = sum(max(0, self._ordered(key) - self._before.get(key, 0)) for key in self._starting)
        return Purse(
            price=(limits.price_per_hour_max or price + infinite * dearest) - price,
            power_w=(limits.power_w_max or power + infinite * strongest) - power,
            starts=max(0, limits.starts_max - max(0, started - sum(self._flips.values()))),
            left={
                kind.name: (int(infinite) if kind.workers_max is None else kind.workers_max)
                - spent[kind.name]
                for kind in self._settings.kinds
            },
        )

    # ------------------------------------------------------------------ stops

    def _trim(self) -> int:
        """Give back what is beyond a limit, whatever it serves: the limit was lowered."""
        stopped = 0
        for phase in Phase:
            while self._count(phase) > self._limits(phase).workers_max and self._drop(phase):
                stopped += 1
        while self._is_over_budget():
            fuller = max(Phase, key=lambda phase: self._count(phase) - self._limits(phase).workers_min)
            if self._count(fuller) <= self._limits(fuller).workers_min or not self._drop(fuller):
                break
            stopped += 1
        if stopped:
            self._said.append(f"{stopped} workers are beyond a limit and are given back")
        return stopped

    def _is_over_budget(self) -> bool:
        purse = self._purse()
        return purse.price < -SMALL or purse.power_w < -SMALL or min(purse.left.values()) < 0

    def _stop(self, wanted: Wanted) -> int:
        """Give back what has not been needed for as long as a start takes."""
        kept_total, *kept = wanted.kept
        least = {
            phase: max(self._limits(phase).workers_min, kept[place], at_once, soon)
            if not self._settings.limits.flips
            else max(self._limits(phase).workers_min, at_once, soon)
            for place, (phase, at_once, soon) in enumerate(
                (
                    (Phase.PREFILL, wanted.now.prefill, wanted.later.prefill),
                    (Phase.DECODE, wanted.now.decode, wanted.later.decode),
                )
            )
        }
        stopped = 0
        if sum(self._ordered_worth(phase) for phase in Phase) < kept_total + SMALL:
            return stopped
        while stopped < self._settings.limits.stops_max:
            total = sum(self._ordered_worth(phase) for phase in Phase)
            options = [
                (self._ordered_worth(phase) - least[phase], phase, kind)
                for phase in Phase
                if (kind := self._dearest(phase)) is not None
                and total - self._worths.of(phase, kind) >= kept_total - SMALL
                and self._ordered_worth(phase) - self._worths.of(phase, kind) >= least[phase] - SMALL
                and self._count(phase) > self._limits(phase).workers_min
            ]
            if not options:
                break
            _surplus, phase, _kind = max(options, key=lambda option: (option[0], option[1].value))
            self._drop(phase)
            stopped += 1
        return stopped

    def _dearest(self, phase: Phase) -> str | None:
        """The kind of a role that costs most for what it is worth, of those that may be given back."""
        kinds = [
            kind
            for kind in self._settings.kinds
            if (phase, kind.name) not in self._fixed and self._ordered((phase, kind.name)) > 0
        ]
        if not kinds:
            return None
        return max(kinds, key=lambda kind: (self._price_for_worth(phase, kind), kind.name)).name

    def _price_for_worth(self, phase: Phase, kind: KindSettings) -> float:
        return kind.price_per_hour / self._worths.of(phase, kind.name)

    def _drop(self, phase: Phase) -> bool:
        kind = self._dearest(phase)
        if kind is None:
            return False
        key = (phase, kind)
        if self._starting.get(key, 0) > 0:
            self._starting[key] -= 1
        else:
            self._ready[key] -= 1
        return True


def _other(phase: Phase) -> Phase:
    return Phase.DECODE if phase is Phase.PREFILL else Phase.PREFILL
