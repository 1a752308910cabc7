"""The account of a decision: its numbers are there, its words and candidates are made when asked for.

Comes in: the priced ways of a query, which of them would do, and which was taken. Goes out: a placement whose
reason and candidates say what was known at the decision, whenever they are read. Nearly all placements are
never explained, and the words cost more than the prices.
Invariant: an account holds nothing that changes: columns are its own, views are frozen.
Not here: the choice (`services.router.placement`), telling a person (`baton explain`).
"""

from dataclasses import dataclass, fields
from math import inf

from services.domain.ids import WorkerId
from services.domain.placement import Candidate, Path, Placement, PlacementQuery
from services.router.fleet.columns import Mask
from services.router.prefixes.coming import Coming
from services.router.pricing.bounds import Bounds
from services.router.pricing.refusal import Bar
from services.router.pricing.sifting import Closed
from services.router.pricing.way import Ways, number_at


@dataclass(slots=True, kw_only=True)
class Wish:
    """The one path that is to be taken where that is possible.

    Attributes:
        path: which.
        why: for what reason.
    """

    path: Path
    why: str

    def __str__(self) -> str:
        """Say what is wished for."""
        return f"{self.path} prefill {self.why}"


@dataclass(slots=True, kw_only=True)
class Account:
    """What a decision was made from.

    Attributes:
        ways: all.
        good: those that would serve the request well, shape [places]; None when all do.
        closed: those that cannot be gone; None when none is.
        bounds: of the request.
        chosen: place of the way that was taken.
        wish: for a path; None without.
        block_count: full blocks of the prompt.
        coming: which of the overlaps is still computed; None: all blocks are there.
        candidates_kept: how many candidates are told.
    """

    ways: Ways
    good: Mask | None
    closed: Closed | None
    bounds: Bounds
    chosen: int
    wish: Wish | None
    block_count: int
    coming: Coming | None
    candidates_kept: int

    def candidates(self) -> tuple[Candidate, ...]:
        """List ways, best first: the good ones, and as far as there is room those with an objection."""
        ways, room = self.ways, self.candidates_kept
        wish = self.wish if self.wish is not None and self._as_wished() else None
        told = [
            ways.candidate(place)
            for place in ways.best(room, path=None if wish is None else wish.path, among=self.good)
        ]
        if wish is not None:
            others = ways.best(room - len(told), path=_other(wish.path), among=self.good)
            told += [ways.candidate(place, str(wish)) for place in others]
        told += [
            ways.candidate(place, self.bounds.objection(ways, place))
            for place in self._best_barred(room - len(told))
        ]
        reasons = sorted(self._closed_reasons(), key=lambda e: (e[1], e[0]))[: room - len(told)]
        told += [Candidate(path=path, worker_id=worker_id, excluded=why) for path, worker_id, why in reasons]
        return tuple(told)

    def reason(self) -> str:
        """Say in one sentence what was chosen and what spoke against the other path."""
        chosen = self.ways.candidate(self.chosen)
        rest = _other(chosen.path)
        parts: list[str] = []
        if self.wish is not None:
            but = "" if self._as_wished() else f" but is impossible{self._why_not(rest)}"
            parts.append(f"{self.wish}{but}")
        parts.append(
            f"worker {chosen.worker_id} {self._holds(chosen)} {chosen.overlap_blocks} of "
            f"{self.block_count} blocks; "
            f"predicted TTFT {_ms(chosen.ttft_s)}"
        )
        if chosen.harm_s > 0:
            parts.append(f"it stalls {self._stall(self.chosen)}")
        if self.wish is None or self._as_wished():
            against = self.ways.first(path=rest, among=self.good)
            if against is not None:
                parts.append(self._against(against))
            elif self.wish is None:
                parts.append(f"{rest} is impossible{self._why_not(rest)}")
        return f"{chosen.path}: " + "; ".join(parts)

    def _holds(self, chosen: Candidate) -> str:
        """Say whether blocks are there, or come with a prompt that begins alike."""
        is_coming = self.coming is not None and chosen.worker_id == self.coming.worker_id
        return "will hold" if is_coming else "holds"

    def _as_wished(self) -> bool:
        return self.wish is not None and self.ways.path(self.chosen) is self.wish.path

    def _best_barred(self, count: int, path: Path | None = None) -> list[int]:
        """Find the best of the ways that could be gone, but not well."""
        if self.good is None:
            return []
        return self.ways.best(count, path=path, among=~self.good & (self.ways.cost_s < inf))

    def _closed_reasons(self) -> list[tuple[Path, WorkerId, str]]:
        if self.closed is None:
            return []
        return [(path, view.worker_id, why) for path, view, why in self.closed.reasons()]

    def _why_not(self, path: Path) -> str:
        """Say why a path is closed, by the first worker that would have offered it."""
        ways = self.ways
        for least in self._best_barred(1, path):
            what = "is full for" if self.bounds.bar(ways, least) is Bar.FULL else "would keep it waiting for"
            return f" ({ways.worker_ids[least]} {what} {ways.wait_s[least]:.1f} s)"
        for _, worker_id, why in sorted(reason for reason in self._closed_reasons() if reason[0] is path):
            return f" ({worker_id}: {why})"
        return " (no worker offers it)"

    def _against(self, place: int) -> str:
        other = self.ways.candidate(place)
        how = "prefilling on" if other.path is Path.LOCAL else "handing over from"
        stall = f" and stall {self._stall(place)}" if other.harm_s > 0 else ""
        return f"{how} {other.worker_id} would take {_ms(other.ttft_s)}{stall}"

    def _stall(self, place: int) -> str:
        count, harm_s = int(self.ways.running_count[place]), number_at(self.ways.harm_s, place)
        plural, each = ("request", "") if count == 1 else ("requests", " each")
        return f"{count} running {plural} for {_ms(harm_s / count)}{each}"


class AccountedPlacement(Placement):
    """A placement that tells its reason and candidates from an account, each time they are asked for."""

    __slots__ = ("_account",)

    _account: Account

    def __init__(self, query: PlacementQuery, account: Account) -> None:
        """Take the numbers of the chosen way."""
        ways, place = account.ways, account.chosen
        ttft_s, tpot_s = float(ways.ttft_s[place]), float(ways.tpot_s[place])
        put = object.__setattr__  # the class is frozen
        put(self, "request_id", query.request_id)
        put(self, "path", ways.path(place))
        put(self, "worker_id", ways.worker_ids[place])
        put(self, "overlap_blocks", int(number_at(ways.overlap_blocks, place)))
        put(self, "predicted_ttft_s", ttft_s)
        put(self, "predicted_tpot_s", tpot_s)
        put(self, "predicted_s", account.bounds.predicted_s(ttft_s, tpot_s))
        put(self, "margins", account.bounds.margins)
        put(self, "_account", account)

    def __eq__(self, other: object) -> bool:
        """Compare what is told, with any placement."""
        names = [field.name for field in fields(Placement)]
        return isinstance(other, Placement) and all(getattr(self, n) == getattr(other, n) for n in names)

    __hash__ = Placement.__hash__

    @property
    def wait_s(self) -> float:
        """Of the chosen way, as `prefill_s`; see `Candidate`."""
        return float(self._account.ways.wait_s[self._account.chosen])

    @property
    def prefill_s(self) -> float:
        """Of the chosen way."""
        return number_at(self._account.ways.prefill_s, self._account.chosen)

    @property
    def reason(self) -> str:
        """One sentence for a person."""
        return self._account.reason()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Best first, excluded ones last."""
        return self._account.candidates()


def _other(path: Path) -> Path:
    return Path.REMOTE if path is Path.LOCAL else Path.LOCAL


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
