"""What a gateway asks of a router, wherever the router is; and the answer of one in the same process.

Comes in: queries. Goes out: placements or rejections. Invariant: both ways of asking give the same answer
to the same question. Not here: asking a router in another process (`services.router.remote`).
"""

from typing import Protocol

from services.domain.errors import Rejected
from services.domain.placement import DecodePlacement, DecodeQuery, Placement, PlacementQuery
from services.router.router import Router
from services.runtime.clock import Clock


class Placer(Protocol):
    """A router."""

    async def place(self, query: PlacementQuery) -> Placement | Rejected:
        """Say where a prompt is prefilled, and count it as load until a status shows it.

        A router that does not answer in time has another one answer for it.
        """
        ...

    async def place_decode(self, query: DecodeQuery) -> DecodePlacement | Rejected:
        """Say who continues a handed-over prompt, and count it as load until a status shows it.

        A router that does not answer in time has another one answer for it.
        """
        ...


class LocalPlacer:
    """A router in this process."""

    def __init__(self, router: Router, clock: Clock) -> None:
        self._router = router
        self._clock = clock

    async def place(self, query: PlacementQuery) -> Placement | Rejected:
        """Ask the router now."""
        return self._router.place(query, self._clock.now_s())

    async def place_decode(self, query: DecodeQuery) -> DecodePlacement | Rejected:
        """Ask the router now."""
        return self._router.place_decode(query, self._clock.now_s())
