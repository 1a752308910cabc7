"""A router asked over the network answers as one in the same process would."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.bus.memory.broker import MemoryBroker
from services.bus.memory.client import MemoryBus
from services.domain.errors import ConfigurationInvalid, NotReady, Rejected, WorkerLost
from services.domain.ids import GatewayId, WorkerId
from services.domain.placement import DecodePlacement, DecodeQuery, Placement, PlacementQuery
from services.link.port import WorkerLink
from services.link.settings import LinkTls
from services.router.placer import LocalPlacer
from services.router.remote import ASK_AGAIN_S, RemotePlacer
from services.router.router import Router
from services.router.settings import RouterSettings
from services.router.shell import RouterServer
from services.runtime.clock import LoopClock, SkewedClock
from services.runtime.metrics import Meters
from tests.bus.certificates import Authority, replace_files
from tests.router.scenery import DECODE, PREFILL, decode_query, query, worker


class NobodyThere:
    """A dialer of a network without workers."""

    async def connect(self, address: str, *, gateway_id: GatewayId, timeout_s: float) -> WorkerLink:
        """Find nobody."""
        raise WorkerLost(worker_id=WorkerId("?"), message=f"nobody at {address}")


class Blind:
    """A placer that knows no worker."""

    async def place(self, query: PlacementQuery) -> Placement | Rejected:
        """Refuse."""
        return NotReady(message=f"nobody for {query.request_id}", retry_after_s=1.0)

    async def place_decode(self, query: DecodeQuery) -> DecodePlacement | Rejected:
        """Refuse."""
        return NotReady(message=f"nobody for {query.request_id}", retry_after_s=1.0)


def server_of(router: Router, tls: LinkTls | None = None) -> RouterServer:
    """A server around a router, on a bus of its own."""
    return RouterServer(
        router,
        MemoryBus(MemoryBroker(), "router"),
        NobodyThere(),
        router_id=GatewayId("router-1"),
        clock=LoopClock(),
        meters=Meters(),
        tls=tls,
    )


def informed() -> Router:
    """A router that knows a small fleet and never finds it old."""
    router = Router(RouterSettings(stale_after_s=1e9, forget_after_s=1e9))
    for status in (worker("p0", PREFILL), worker("d0", DECODE), worker("d1", DECODE)):
        router.fold_status(status, 0.0)
    return router


@pytest.fixture
async def served() -> AsyncIterator[str]:
    """The address of a served router."""
    server = server_of(informed())
    yield await server.start("127.0.0.1:0")
    await server.stop()


async def test_both_ways_of_asking_give_the_same_answers(served: str) -> None:
    """Placements, decode placements and rejections come back equal, records included."""
    here = LocalPlacer(informed(), LoopClock())
    there = RemotePlacer(served, backup=Blind(), clock=LoopClock(), timeout_s=30)
    try:
        for asked in (query("r1"), query("r2", prompt_tokens=8000), query("r3", model="huge")):
            assert await there.place(asked) == await here.place(asked)
        for handed in (decode_query("r1"), decode_query("r4", compatibility="other")):
            assert await there.place_decode(handed) == await here.place_decode(handed)
    finally:
        await there.close()


async def test_a_router_that_is_gone_is_answered_for(served: str) -> None:
    """No answer costs nothing: the gateway's own router decides, as it would without the other one."""
    del served
    own = LocalPlacer(informed(), LoopClock())
    gone = RemotePlacer("127.0.0.1:1", backup=own, clock=LoopClock(), timeout_s=30)
    try:
        placed, decode = await gone.place(query("r1")), await gone.place_decode(decode_query("r1"))
        assert isinstance(placed, Placement)
        assert isinstance(decode, DecodePlacement)
    finally:
        await gone.close()


async def test_a_silent_router_is_asked_again_later(served: str) -> None:
    """After a silence the own router decides for a while, and then the other one is asked again."""
    clock = SkewedClock()
    there = RemotePlacer(served, backup=Blind(), clock=clock, timeout_s=30)
    try:
        there._silent_until_s = clock.now_s() + ASK_AGAIN_S  # as after a silence
        assert isinstance(await there.place(query("r1")), NotReady)
        clock.skew(rate=1.0, jump_s=ASK_AGAIN_S)
        assert isinstance(await there.place(query("r1")), Placement)
    finally:
        await there.close()


def credentials(authority: Authority, name: str) -> LinkTls:
    """Encryption of a process with a certificate."""
    certificate, key = authority.issue(name)
    return LinkTls(certificate_file=certificate, key_file=key, authority_file=str(authority.ca_file))


async def test_an_encrypted_router_answers_its_gateways_only(tmp_path: Path) -> None:
    """Who has no certificate of the same authority gets no answer, and its own router decides."""
    authority, stranger = Authority(tmp_path, "authority"), Authority(tmp_path, "stranger")
    server = server_of(informed(), credentials(authority, "router"))
    address = await server.start("127.0.0.1:0")
    nameless = LinkTls(authority_file=str(authority.ca_file))
    for tls, is_answered in (
        (credentials(authority, "gateway"), True),
        (None, False),
        (nameless, False),
        (credentials(stranger, "impostor"), False),
    ):
        there = RemotePlacer(address, backup=Blind(), clock=LoopClock(), timeout_s=30, tls=tls)
        assert isinstance(await there.place(query("r1")), Placement) is is_answered
        await there.close()
    await server.stop()


async def test_renewed_certificates_are_taken_on_both_sides(tmp_path: Path) -> None:
    """Files change under both while the router restarts: one silence, and it is answered again."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    tls = credentials(old, "cluster")
    server, clock = server_of(informed(), tls), SkewedClock()
    address = await server.start("127.0.0.1:0")
    there = RemotePlacer(address, backup=Blind(), clock=clock, timeout_s=30, tls=tls)
    assert isinstance(await there.place(query("r1")), Placement)
    await server.stop()
    files = [getattr(tls, name) for name in ("certificate_file", "key_file", "authority_file")]
    replace_files(files, (*new.issue("renewed"), str(new.ca_file)))
    again = server_of(informed(), tls)
    await again.start(address)
    assert isinstance(await there.place(query("r2")), NotReady)
    clock.skew(rate=1.0, jump_s=ASK_AGAIN_S)
    assert isinstance(await there.place(query("r3")), Placement)
    await there.close()
    await again.stop()


async def test_an_address_in_use_refuses_the_start(served: str) -> None:
    """Two routers on one port are a mistake that the second one names."""
    second = server_of(informed())
    with pytest.raises(ConfigurationInvalid, match=served):
        await second.start(served)
    await second.stop()
