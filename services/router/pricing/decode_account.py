"""The account of a handoff's placement: its numbers are there, its words are made when asked for.

Comes in: priced seats, which of them were open, which was taken. Goes out: a placement whose reason and
candidates say what was known at the decision, whenever they are read. Invariant: an account holds nothing
that changes: columns are its own, views are frozen.
Not here: the choice (`services.router.decode_placement`).
"""

from dataclasses import dataclass, fields
from typing import cast

import numpy as np

from services.domain.ids import WorkerId
from services.domain.placement import DecodeCandidate, DecodePlacement, DecodeQuery
from services.router.fleet.columns import Column, Mask, Ties
from services.router.pricing.decode_seats import DecodeSeats
from services.router.pricing.sifting import Closed

FILLED_LATER = "another is filled up first, so that as many as possible are free to prefill"
"""What is said of a worker that sequences do not go to as long as another soft-roled one has room."""


@dataclass(slots=True, kw_only=True)
class DecodeAccount:
    """What a decision was made from; columns have the shape [decoders].

    Attributes:
        worker_ids: who.
        ties: hash of request and worker.
        seats: what the sequence costs at each.
        taken: who was chosen among, in time and not spared; None: all.
        late: who has no room in time; None: nobody.
        closed: who cannot be chosen; None where all can.
        running_count: requests that each decodes.
        soft: who could prefill instead.
        chosen: place of the one that was taken.
        holder_id: who computed the prompt.
        wait_max_s: longest wait.
        candidates_kept: how many candidates are told.
    """

    worker_ids: tuple[WorkerId, ...]
    ties: Ties
    seats: DecodeSeats
    taken: Mask | None
    late: Mask | None
    closed: Closed | None
    running_count: Column
    soft: Mask
    chosen: int
    holder_id: WorkerId | None
    wait_max_s: float
    candidates_kept: int

    def candidates(self) -> tuple[DecodeCandidate, ...]:
        """List workers, best first: those chosen among, then as far as there is room the others."""
        room = self.candidates_kept
        told = [self._candidate(place) for place in self._best(self._taken())[:room]]
        for place in self._best(self._late())[: room - len(told)]:
            wait_s = self._wait_s(place)
            why = f"its wait of {wait_s:.1f} s is longer than {self.wait_max_s:g} s"
            told.append(self._candidate(place, why))
        told += [
            self._candidate(place, FILLED_LATER) for place in self._best(self._spared())[: room - len(told)]
        ]
        closed = [] if self.closed is None else self.closed.reasons()
        others = sorted((view.worker_id, why) for _, view, why in closed)
        told += [DecodeCandidate(worker_id=who, excluded=why) for who, why in others[: room - len(told)]]
        return tuple(told)

    def reason(self) -> str:
        """Say in one sentence what was chosen."""
        chosen, seats, name = self.chosen, self.seats, self.worker_ids[self.chosen]
        text = "nothing moves: " if name == self.holder_id else ""
        text += (
            f"worker {name} runs {int(self.running_count[chosen])} requests; with this one its step takes "
            f"{seats.step_s[chosen] * 1000:.3g} ms and {seats.kv_free_frac[chosen]:.0%} of its KV memory "
            "stays free"
        )
        if (wait_s := self._wait_s(chosen)) > 0:
            text += f", after {wait_s:.2g} s until memory is free"
        taken = self._best(self._taken())
        if len(taken) > 1:
            text += f"; next best is {self.worker_ids[taken[1]]} at a cost of "
            text += f"{seats.cost_s[taken[1]] * 1000:.3g} ms against {seats.cost_s[chosen] * 1000:.3g} ms"
        free_count = np.count_nonzero(self._spared() & self.soft & (self.running_count == 0.0))
        if free_count:
            text += f"; {free_count} others stay free to prefill"
        return text

    def _candidate(self, place: int, excluded: str | None = None) -> DecodeCandidate:
        seats = self.seats
        return DecodeCandidate(
            worker_id=self.worker_ids[place],
            step_s=float(seats.step_s[place]),
            kv_free_frac=float(seats.kv_free_frac[place]),
            cost_s=float(seats.cost_s[place]),
            excluded=excluded,
        )

    def _wait_s(self, place: int) -> float:
        return 0.0 if self.seats.wait_s is None else float(self.seats.wait_s[place])

    def _able(self) -> Mask:
        return np.ones(len(self.ties), bool) if self.closed is None else ~self.closed.mask

    def _late(self) -> Mask:
        return np.zeros(len(self.ties), bool) if self.late is None else self.late & self._able()

    def _taken(self) -> Mask:
        return self._able() if self.taken is None else self.taken

    def _spared(self) -> Mask:
        return self._able() & ~self._late() & ~self._taken()

    def _best(self, among: Mask) -> list[int]:
        order = np.lexsort((self.ties, self.seats.cost_s))
        return cast(list[int], order[among[order]].tolist())


class AccountedDecode(DecodePlacement):
    """A placement that tells its reason and candidates from an account, each time they are asked for."""

    __slots__ = ("_account",)

    _account: DecodeAccount

    def __init__(self, query: DecodeQuery, account: DecodeAccount) -> None:
        """Take the worker that was chosen."""
        put = object.__setattr__  # the class is frozen
        put(self, "request_id", query.request_id)
        put(self, "worker_id", account.worker_ids[account.chosen])
        put(self, "_account", account)

    def __eq__(self, other: object) -> bool:
        """Compare what is told, with any placement."""
        names = [field.name for field in fields(DecodePlacement)]
        return isinstance(other, DecodePlacement) and all(
            getattr(self, name) == getattr(other, name) for name in names
        )

    __hash__ = DecodePlacement.__hash__

    @property
    def reason(self) -> str:
        """One sentence for a person."""
        return self._account.reason()

    @property
    def candidates(self) -> tuple[DecodeCandidate, ...]:
        """Best first, excluded ones last."""
        return self._account.candidates()
