"""From needs to orders: role flips first, then new replicas, then what is given back.

Comes in: pools, needs now and after a start, what to keep, limits. Goes out: orders, flips, sentences.
Invariant: no order is beyond a limit; flips keep the total; a held pool stays as it is; a worker is never
given back while one is asked for. Not here: how many are needed (`sizing`), for how long (`stabilising`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from planner.arranging.kinds import Purse, Worths, cheapest
from planner.arranging.role_keeping import RoleKeeping
from planner.arranging.stock import SMALL, Stock
from planner.decision import Flip, PoolOrder
from planner.observation import PoolKey, PoolState
from planner.settings import PlannerSettings
from planner.sizing.needs import Needs
from services.domain.worker import Phase

TURN_COST_FRAC = 0.5
"""Of what those who turn carry, how much is lost meanwhile: first they finish what they have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a plan is made for; all in workers of the reference kind.

    Attributes:
        now: needed at once.
        later: needed when a replica ordered now is ready.
        kept: to keep at least, of both roles, prefill and decode; since lately needed.
        late_of: share of late requests now, by workers of both roles.
        late_later_of: the same when a replica ordered now is ready.
        allowed_late_frac: of it.
        may_stop: whether anything may be given back.
        show_s: time until it can be seen what a turn did.
    """

    now: Needs
    later: Needs
    kept: tuple[int, int, int]
    late_of: Callable[[float, float], float]
    late_later_of: Callable[[float, float], float]
    allowed_late_frac: float
    may_stop: bool = True
    show_s: float = 0.0


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

    def __init__(
        self,
        settings: PlannerSettings,
        worths: Worths,
        pools: tuple[PoolState, ...],
        *,
        at_s: float,
        roles: RoleKeeping,
    ) -> None:
        """Take stock.

        Args:
            settings: kinds and limits.
            worths: of the kinds.
            pools: as observed; those of unknown kinds stay as they are.
            at_s: the moment.
            roles: turns of earlier decisions; takes note of those of this one.
        """
        self._settings = settings
        self._worths = worths
        self._stock = Stock(settings, worths, pools)
        self._at_s = at_s
        self._roles = roles
        self._said: list[str] = []

    def arrange(self, wanted: Wanted) -> Arrangement:
        """Decide."""
        if self._settings.limits.flips:
            self._flip(wanted)
            self._turn_to_minimum(wanted)
            for phase, kind in self._stock.flips:
                self._roles.note(kind, phase, self._at_s, show_s=wanted.show_s)
        started = self._fill_minimum() + self._start(wanted)
        stopped = self._trim()
        if started == 0 and wanted.may_stop:
            stopped += self._stop(wanted)
        return Arrangement(
            orders=tuple(
                PoolOrder(phase=phase, kind=kind, worker_count=self._stock.ordered((phase, kind)))
                for phase, kind in self._stock.ready
            ),
            flips=tuple(
                Flip(kind=kind, source=phase, worker_count=count)
                for (phase, kind), count in self._stock.flips.items()
            ),
            started_count=started,
            stopped_count=stopped,
            said=tuple(self._said),
        )

    # ------------------------------------------------------------------ flips

    def _flip(self, wanted: Wanted) -> None:
        """Change roles while too many requests are late and a change makes clearly fewer so."""
        needs = {Phase.PREFILL: wanted.now.prefill, Phase.DECODE: wanted.now.decode}
        is_enough = all(self._stock.ready_worth(phase) >= need for phase, need in needs.items())
        late = 0.0 if is_enough else self._late(wanted)
        self._keep_roles(wanted, late)
        while late > wanted.allowed_late_frac:
            options = [
                found for key in self._stock.ready if (found := self._best_flip(wanted, key)) is not None
            ]
            if not options:
                return
            best, count, key = min(options)
            # Less than the allowance itself is no reason to stir: that is how often a plan may be wrong.
            away = TURN_COST_FRAC * count / sum(self._stock.ready.values())
            if best > wanted.allowed_late_frac and best > late - max(wanted.allowed_late_frac, away):
                return
            self._stock.move(key, count)
            late = best

    def _keep_roles(self, wanted: Wanted, late: float) -> None:
        """Keep those in their role whose last turn has not shown yet what it does."""
        for key in self._roles.ways_back():
            gain = 0.0
            if late > wanted.allowed_late_frac and self._stock.flippable(key) > 0:
                gain = late - self._late(wanted, key, 1)
            if not self._roles.may_turn_back(key[1], self._at_s, gain, least=wanted.allowed_late_frac):
                self._stock.settling.add(key)

    def _best_flip(self, wanted: Wanted, key: PoolKey) -> tuple[float, int, PoolKey] | None:
        """Find the fewest workers of a pool whose turn is enough, or the number that is best if none is."""
        best: tuple[float, int, PoolKey] | None = None
        for count in range(1, self._stock.flippable(key) + 1):
            late = self._late(wanted, key, count)
            if best is None or late < best[0]:
                best = (late, count, key)
            if late <= wanted.allowed_late_frac:
                break
        return best

    def _late(self, wanted: Wanted, flipped: PoolKey | None = None, count: int = 0) -> float:
        prefill, decode = self._stock.ready_worth(Phase.PREFILL), self._stock.ready_worth(Phase.DECODE)
        if flipped is not None:
            away = count * self._worths.of(*flipped)
            to = count * self._worths.of(flipped[0].other, flipped[1])
            is_prefill = flipped[0] is Phase.PREFILL
            prefill += -away if is_prefill else to
            decode += to if is_prefill else -away
        return wanted.late_of(prefill, decode)

    def _turn_to_minimum(self, wanted: Wanted) -> None:
        """Turn what one role does not need now to the other, where that is below its minimum."""
        needs = {Phase.PREFILL: wanted.now.prefill, Phase.DECODE: wanted.now.decode}
        self._stock.settling.clear()  # a minimum is a limit: no turn before counts against it
        for key in tuple(self._stock.ready):
            phase, kind = key
            target = phase.other
            while (
                self._stock.count(target) < self._stock.limits(target).workers_min
                and self._stock.flippable(key) > 0
                and self._stock.ready_worth(phase) - self._worths.of(phase, kind) >= needs[phase] - SMALL
            ):
                self._stock.move(key, 1)

    # ------------------------------------------------------------------ starts

    def _fill_minimum(self) -> int:
        lacks = {phase: self._stock.limits(phase).workers_min - self._stock.count(phase) for phase in Phase}
        if max(lacks.values()) <= 0:
            return 0
        purse = self._stock.purse()
        return sum(self._order(phase, float(lack), purse) for phase, lack in lacks.items() if lack > 0)

    def _start(self, wanted: Wanted) -> int:
        lacks = {
            Phase.PREFILL: wanted.later.prefill - self._stock.ordered_worth(Phase.PREFILL),
            Phase.DECODE: wanted.later.decode - self._stock.ordered_worth(Phase.DECODE),
        }
        if self._settings.limits.flips:  # what one role has too much of will be turned over
            total = sum(lacks.values())
            for phase in Phase:
                lacks[phase] = min(lacks[phase], total)
        if max(lacks.values()) <= SMALL or (self._is_mixed and self._is_enough(wanted, {})):
            return 0
        purse, started = self._stock.purse(), 0
        for phase, lack in lacks.items():
            if lack > SMALL:
                ordered_before = self._stock.ordered_worth(phase)
                started += self._order(phase, lack, purse)
                missing = lack - (self._stock.ordered_worth(phase) - ordered_before)
                if missing > SMALL:
                    self._said.append(
                        f"limits leave {phase.value} {missing:.3g} workers short of what the targets need"
                    )
        return started

    def _order(self, phase: Phase, lack: float, purse: Purse) -> int:
        """Order workers of a role; returns how many."""
        kinds = [kind for kind in self._settings.kinds if (phase, kind.name) not in self._stock.fixed]
        room = self._stock.limits(phase).workers_max - self._stock.count(phase)
        if not kinds or room <= 0:
            return 0
        before, purse.starts = purse.starts, min(purse.starts, room)
        granted = purse.starts
        chosen = cheapest(kinds, self._worths.by_phase[phase], purse, lack)
        purse.starts = before - (granted - purse.starts)
        for kind, count in chosen.items():
            key = (phase, kind)
            self._stock.ready.setdefault(key, 0)
            self._stock.starting[key] = self._stock.starting.get(key, 0) + count
        return sum(chosen.values())

    # ------------------------------------------------------------------ stops

    def _trim(self) -> int:
        """Give back what is beyond a limit, whatever it serves: the limit was lowered."""
        stock, stopped = self._stock, 0
        for phase in Phase:
            while stock.count(phase) > stock.limits(phase).workers_max and stock.drop(phase):
                stopped += 1
        for kind in self._settings.kinds:
            while stock.purse().left[kind.name] < 0:
                fuller = max(Phase, key=lambda phase: stock.ordered((phase, kind.name)))
                if not stock.drop(fuller, kind.name):
                    break
                stopped += 1
        while stock.is_over_budget():
            fuller = max(Phase, key=lambda phase: stock.count(phase) - stock.limits(phase).workers_min)
            if stock.count(fuller) <= stock.limits(fuller).workers_min or not stock.drop(fuller):
                break
            stopped += 1
        if stopped:
            self._said.append(f"{stopped} workers are beyond a limit and are given back")
        return stopped

    def _stop(self, wanted: Wanted) -> int:
        """Give back what has not been needed for as long as a start takes."""
        kept_total, *kept = wanted.kept
        least = {
            phase: max(self._stock.limits(phase).workers_min, kept[place], at_once, soon)
            if not self._settings.limits.flips
            else max(self._stock.limits(phase).workers_min, at_once, soon)
            for place, (phase, at_once, soon) in enumerate(
                (
                    (Phase.PREFILL, wanted.now.prefill, wanted.later.prefill),
                    (Phase.DECODE, wanted.now.decode, wanted.later.decode),
                )
            )
        }
        stopped = 0
        if sum(self._stock.ordered_worth(phase) for phase in Phase) < kept_total + SMALL:
            return stopped
        while stopped < self._settings.limits.stops_max:
            total = sum(self._stock.ordered_worth(phase) for phase in Phase)
            options = [
                (self._stock.ordered_worth(phase) - least[phase], phase, kind)
                for phase in Phase
                if (kind := self._stock.dearest(phase)) is not None
                and total - self._worths.of(phase, kind) >= kept_total - SMALL
                and self._may_go(wanted, phase, kind, least[phase])
                and self._stock.count(phase) > self._stock.limits(phase).workers_min
            ]
            if not options:
                break
            _surplus, phase, _kind = max(options, key=lambda option: (option[0], option[1].value))
            self._stock.drop(phase)
            stopped += 1
        return stopped

    @property
    def _is_mixed(self) -> bool:
        return len(self._settings.kinds) > 1

    def _may_go(self, wanted: Wanted, phase: Phase, kind: str, least: float) -> bool:
        """Whether a worker of a role is spare; of several kinds, one may be worth part of a whole need."""
        worth = self._worths.of(phase, kind)
        if self._is_mixed:
            return self._is_enough(wanted, {phase: worth})
        return self._stock.ordered_worth(phase) - worth >= least - SMALL

    def _is_enough(self, wanted: Wanted, less: Mapping[Phase, float]) -> bool:
        """Whether what is ready is enough now and what is ordered later, both without so much of a role."""
        stock = self._stock
        ready, ordered = (
            [worth_of(phase) - less.get(phase, 0.0) for phase in (Phase.PREFILL, Phase.DECODE)]
            for worth_of in (stock.ready_worth, stock.ordered_worth)
        )
        allowed = wanted.allowed_late_frac
        return wanted.late_later_of(*ordered) <= allowed and (not less or wanted.late_of(*ready) <= allowed)
