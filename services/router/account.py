"""The account of a decision: its numbers are copied at once, words and candidates are made when asked for.

Comes in: the priced ways of a query and which of them were taken, spared or barred. Goes out: a placement
whose reason and candidates say what was known at the decision, whenever they are read. Nearly all placements
are never explained, and words cost more than prices.
Invariant: an account holds nothing that changes: numbers are copies, views are frozen.
Not here: the choice (`services.router.placement`), telling a person (`baton explain`).
"""

from dataclasses import dataclass, fields

from services.domain.placement import Candidate, Path, Placement, PlacementQuery
from services.router.bounds import Bounds
from services.router.way import Taken, number_at


@dataclass(slots=True, kw_only=True)
class Wish:
    """The one path that is to be taken where that is possible.

    Attributes:
        path: which.
        why: for what reason.
    """

    path: Path
    why: str


@dataclass(slots=True, kw_only=True)
class Account:
    """What a decision was made from.

    Attributes:
        taken: the ways named here: the good ones, best first; then those spared; those barred; last perhaps
            one that is only named in the reason.
        good_count: ways that could have been chosen.
        spared_count: good ways of the path that was not wished for.
        barred_count: ways that would not serve the request well.
        against: which of them is the best on the other path; None where there is none.
        closed: workers that could not be chosen, with reasons.
        wish: for a path; None without.
        impossible: why the path wished for, or else the other one, cannot be gone; None where it can.
        block_count: full blocks of the prompt.
        bounds: of the request.
    """

    taken: Taken
    good_count: int
    spared_count: int
    barred_count: int
    against: int | None
    closed: tuple[Candidate, ...]
    wish: Wish | None
    impossible: str | None
    block_count: int
    bounds: Bounds

    def candidates(self) -> tuple[Candidate, ...]:
        """List the ways that were looked at, best first, with what spoke against those not good enough."""
        taken, bounds = self.taken, self.bounds
        spared_at = self.good_count
        barred_at = spared_at + self.spared_count
        good = map(taken.candidate, range(self.good_count))
        spared = (taken.candidate(i, self._wished()) for i in range(spared_at, barred_at))
        barred = (
            taken.candidate(i, bounds.objection(taken, i))
            for i in range(barred_at, barred_at + self.barred_count)
        )
        return (*good, *spared, *barred, *self.closed)

    def reason(self) -> str:
        """Say in one sentence what was chosen and what spoke against the other path."""
        chosen = self.taken.candidate(0)
        parts: list[str] = []
        if self.wish is not None:
            but = "" if chosen.path is self.wish.path else f" but is impossible ({self.impossible})"
            parts.append(self._wished() + but)
        parts.append(
            f"worker {chosen.worker_id} holds {chosen.overlap_blocks} of {self.block_count} blocks; "
            f"predicted TTFT {_ms(chosen.ttft_s)}"
        )
        if chosen.harm_s > 0:
            parts.append(f"it stalls {self._stall(0)}")
        if self.against is not None:
            parts.append(self._against(self.against))
        elif self.wish is None:
            parts.append(f"{other_path(chosen.path)} is impossible ({self.impossible})")
        return f"{chosen.path}: " + "; ".join(parts)

    def _wished(self) -> str:
        return "" if self.wish is None else f"{self.wish.path} prefill {self.wish.why}"

    def _against(self, index: int) -> str:
        other = self.taken.candidate(index)
        how = "prefilling on" if other.path is Path.LOCAL else "handing over from"
        stall = f" and stall {self._stall(index)}" if other.harm_s > 0 else ""
        return f"{how} {other.worker_id} would take {_ms(other.ttft_s)}{stall}"

    def _stall(self, index: int) -> str:
        count, harm_s = self.taken.harmed_count(index), self.taken.candidate(index).harm_s
        plural, each = ("request", "") if count == 1 else ("requests", " each")
        return f"{count} running {plural} for {_ms(harm_s / count)}{each}"


class AccountedPlacement(Placement):
    """A placement that tells its reason and candidates from an account, each time they are asked for."""

    __slots__ = ("_account", "prefill_s", "wait_s")

    _account: Account
    prefill_s: float
    """Of the chosen way; see `Candidate`."""
    wait_s: float

    def __init__(self, query: PlacementQuery, account: Account) -> None:
        """Take the numbers of the chosen way, which is the first of the account."""
        taken, bounds = account.taken, account.bounds
        ttft_s, tpot_s = number_at(taken.ttft_s, 0), number_at(taken.tpot_s, 0)
        put = object.__setattr__
        put(self, "request_id", query.request_id)
        put(self, "path", taken.paths[0])
        put(self, "worker_id", taken.worker_ids[0])
        put(self, "overlap_blocks", int(number_at(taken.overlap_blocks, 0)))
        put(self, "predicted_ttft_s", ttft_s)
        put(self, "predicted_tpot_s", tpot_s)
        put(self, "predicted_s", bounds.predicted_s(ttft_s, tpot_s))
        put(self, "margins", bounds.margins)
        put(self, "wait_s", number_at(taken.wait_s, 0))
        put(self, "prefill_s", number_at(taken.prefill_s, 0))
        put(self, "_account", account)

    def __eq__(self, other: object) -> bool:
        """Compare what is told, with any placement."""
        names = [field.name for field in fields(Placement)]
        return isinstance(other, Placement) and all(getattr(self, n) == getattr(other, n) for n in names)

    __hash__ = Placement.__hash__

    @property
    def reason(self) -> str:
        """One sentence for a person."""
        return self._account.reason()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Best first, excluded ones last."""
        return self._account.candidates()


def other_path(path: Path) -> Path:
    """Name the one of the two that this is not."""
    return Path.REMOTE if path is Path.LOCAL else Path.LOCAL


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
