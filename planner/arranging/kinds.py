"""Kinds of workers: what each is worth beside the others, and which to take.

Comes in: kinds, how many requests each carries, prices. Goes out: the cheapest choice that covers a need.
Invariant: what is chosen covers the need if the kinds, the budget and the power allow it at all, and never
goes beyond them. Not here: the need (`sizing`).

A need is counted in workers of one kind, the reference: the one that carries a request through both roles at
the least price. Another kind is worth as many of these as it carries requests of that role, within the
targets.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.settings import KindSettings
from services.domain.worker import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Worths:
    """What kinds are worth.

    Attributes:
        reference: name of the kind that needs are counted in.
        by_phase: for each role and kind, workers of the reference that one stands for.
    """

    reference: str
    by_phase: Mapping[Phase, Mapping[str, float]]

    def of(self, phase: Phase, kind: str) -> float:
        """Say what a worker is worth; one of an unknown kind counts for one."""
        return self.by_phase[phase].get(kind, 1.0)


def worths(kinds: Sequence[KindSettings], rates: Mapping[str, tuple[float, float]]) -> Worths:
    """Compare kinds.

    Args:
        kinds: at least one.
        rates: by kind, requests per second that one worker prefills and decodes.
    """

    def price(kind: KindSettings) -> float:
        prefill, decode = rates[kind.name]
        return kind.price_per_hour * (1.0 / prefill + 1.0 / decode)

    reference = min(kinds, key=lambda kind: (price(kind), kind.name)).name
    base = rates[reference]
    return Worths(
        reference=reference,
        by_phase={
            phase: {kind.name: rates[kind.name][place] / base[place] for kind in kinds}
            for place, phase in enumerate((Phase.PREFILL, Phase.DECODE))
        },
    )


def plain_worths(kinds: Sequence[KindSettings]) -> Worths:
    """Let every worker count for one, in workers of the cheapest kind."""
    names = {kind.name: 1.0 for kind in kinds}
    cheap = min(kinds, key=lambda kind: (kind.price_per_hour, kind.name)).name
    return Worths(reference=cheap, by_phase={Phase.PREFILL: names, Phase.DECODE: names})


@dataclass(slots=True, kw_only=True)
class Purse:
    """What may still be ordered.

    Attributes:
        price: left of the budget, per hour.
        power_w: left of the power.
        starts: replicas left of this decision.
        left: by kind, workers that can still be had.
    """

    price: float
    power_w: float
    starts: int
    left: dict[str, int]

    def affords(self, kind: KindSettings) -> int:
        """Count the workers of a kind that may still be ordered."""
        by_price = math.floor(self.price / kind.price_per_hour + 1e-9)
        by_power = math.floor(self.power_w / kind.power_w + 1e-9) if kind.power_w > 0 else self.starts
        return max(0, min(self.starts, self.left[kind.name], by_price, by_power))

    def pay(self, kind: KindSettings, count: int) -> None:
        """Take workers out."""
        self.price -= count * kind.price_per_hour
        self.power_w -= count * kind.power_w
        self.starts -= count
        self.left[kind.name] -= count


def cheapest(
    kinds: Sequence[KindSettings], worth: Mapping[str, float], purse: Purse, need: float
) -> dict[str, int]:
    """Choose workers that are together worth a need, as far as the purse goes, and pay for them.

    The kind of the best price for its worth is taken while a whole one is needed; the rest is covered by
    whatever is cheapest for it.

    Args:
        kinds: to choose from.
        worth: of each for the role.
        purse: limits.
        need: in workers of the reference, > 0.
    """
    chosen: dict[str, int] = {}
    for kind in sorted(kinds, key=lambda kind: (kind.price_per_hour / worth[kind.name], kind.name)):
        whole = min(math.floor(need / worth[kind.name] + 1e-9), purse.affords(kind))
        if whole > 0:
            purse.pay(kind, whole)
            chosen[kind.name] = whole
            need -= whole * worth[kind.name]
        if purse.affords(kind) > 0:
            break  # of the next best kind whole ones are needed only where this one is used up
    if need <= 1e-9:
        return chosen
    options = [kind for kind in kinds if purse.affords(kind) * worth[kind.name] >= need - 1e-9]
    if options:
        last = min(
            options, key=lambda kind: (math.ceil(need / worth[kind.name]) * kind.price_per_hour, kind.name)
        )
        count = math.ceil(need / worth[last.name] - 1e-9)
        purse.pay(last, count)
        chosen[last.name] = chosen.get(last.name, 0) + count
    return chosen
