"""What only the network has: peers that break the protocol, dead machines, addresses, size."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import grpc
import pytest

from services.domain.errors import BodyTooLarge, ConfigurationInvalid, WorkerLost
from services.domain.link import Hello, StartDecode, ToWorker
from services.link.grpc_client import GrpcDialer
from services.link.grpc_server import Context, GrpcGatewayLink, GrpcLinkServer
from services.link.port import GatewayLink
from services.link.settings import LinkSettings, join_address
from services.link.transport import ATTACH, SERVICE
from services.runtime.clock import run_virtual
from services.wire.codec import encode_to_worker
from tests.link.rigs import GATEWAY, Endpoint, GrpcWorld, accepted, cancel, collect, joined, read
from tests.wire.samples import REQUEST

HELLO = encode_to_worker(Hello(gateway_id=GATEWAY))


@asynccontextmanager
async def raw_stream(address: str) -> AsyncIterator[grpc.aio.StreamStreamCall[bytes, bytes]]:
    """Open the stream without our client, to send what it never would."""
    async with grpc.aio.insecure_channel(address) as channel:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(ATTACH)
        yield method()


@pytest.mark.parametrize(
    "first", [b"", b"\xff\xff", encode_to_worker(cancel(1))], ids=["empty", "noise", "no hello"]
)
def test_a_stream_that_begins_wrongly_is_refused(first: bytes) -> None:
    """The endpoint never hears of a peer that does not say hello."""

    async def scenario() -> None:
        endpoint, server = Endpoint(), GrpcLinkServer(LinkSettings())
        address = await server.serve(endpoint)
        async with raw_stream(address) as call:
            await call.write(first)
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert endpoint.events == []
        await server.close()

    GrpcWorld().run(scenario())


def test_a_stream_that_never_begins_is_dropped() -> None:
    """A peer that connects and says nothing costs the time for a hello and no more."""

    async def scenario() -> None:
        endpoint, server = Endpoint(), GrpcLinkServer(LinkSettings(hello_timeout_s=0.1))
        address = await server.serve(endpoint)
        async with raw_stream(address) as call:
            await call.wait_for_connection()
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert endpoint.events == []
        await server.close()

    GrpcWorld().run(scenario())


def test_noise_on_an_open_link_ends_it() -> None:
    """A message that cannot be read closes the link; the worker goes on with its other gateways."""

    async def scenario() -> None:
        endpoint, server = Endpoint(), GrpcLinkServer(LinkSettings())
        address = await server.serve(endpoint)
        async with raw_stream(address) as call:
            await call.write(HELLO)
            assert await call.read()
            await call.write(b"\x7a\x00")
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "ToWorker.message" in await call.details()
        assert endpoint.kinds == ["opened", "closed"]
        link = await GrpcDialer(LinkSettings()).connect(address, gateway_id=GATEWAY, timeout_s=10.0)
        endpoint.link.send(accepted(1))
        assert await read(link, 1) == [accepted(1)]
        await link.close()
        await server.close()

    GrpcWorld().run(scenario())


@pytest.mark.parametrize("answers", [[], [b"\xff"], [b""]], ids=["silence", "noise", "unknown"])
def test_a_server_that_is_no_worker_is_lost(answers: list[bytes]) -> None:
    """Whatever answers on the port, a gateway gets a link to a worker or `WorkerLost`."""

    async def attach(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        for answer in answers:
            await context.write(answer)

    async def scenario() -> None:
        server = grpc.aio.server()
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(attach)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Attach": handler})])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with pytest.raises(WorkerLost):
            await GrpcDialer(LinkSettings()).connect(f"127.0.0.1:{port}", gateway_id=GATEWAY, timeout_s=10.0)
        await server.stop(None)

    GrpcWorld().run(scenario())


def test_noise_from_a_worker_ends_the_iterator() -> None:
    """A gateway survives a worker that sends what it cannot read."""

    async def attach(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.read()
        await context.write(b"\x0a\x06\x0a\x01w\x12\x01e")  # Welcome(worker_id="w", epoch="e")
        await context.write(b"\x7a\x00")
        await context.read()

    async def scenario() -> None:
        server = grpc.aio.server()
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(attach)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Attach": handler})])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        link = await GrpcDialer(LinkSettings()).connect(
            f"127.0.0.1:{port}", gateway_id=GATEWAY, timeout_s=10.0
        )
        assert await collect(link) == []
        assert not link.send(cancel(1))
        with pytest.raises(WorkerLost):
            await link.snapshot()
        await link.close()
        await server.stop(None)

    GrpcWorld().run(scenario())


def test_a_failing_endpoint_loses_the_link(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in the worker ends the link on both sides and is logged."""

    class Broken(Endpoint):
        def received(self, link: GatewayLink, message: ToWorker) -> None:
            raise ArithmeticError("a bug")

    async def scenario() -> None:
        endpoint = Broken()
        async with joined(GrpcWorld(), endpoint) as link:
            link.send(cancel(1))
            assert await collect(link) == []
            await endpoint.until(lambda: "closed" in endpoint.kinds)
        assert endpoint.kinds == ["opened", "closed"]

    GrpcWorld().run(scenario())
    assert "a bug" in caplog.text


class SlowCall:
    """A call whose gateway says nothing, and to which a message takes as long as one likes."""

    def __init__(self) -> None:
        self.writing, self.may_go = asyncio.Event(), asyncio.Event()
        self.was_cut_off = False

    async def read(self) -> bytes:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError

    async def write(self, _data: bytes) -> None:
        """Write until it is let go."""
        self.writing.set()
        try:
            await self.may_go.wait()
        except asyncio.CancelledError:
            self.was_cut_off = True
            raise


def test_a_link_ends_behind_the_message_that_is_being_written() -> None:
    """A call's status that is sent beside a message is lost, and its gateway would wait for ever."""

    async def scenario() -> None:
        endpoint, call = Endpoint(), SlowCall()
        link = GrpcGatewayLink(GATEWAY, endpoint, LinkSettings())
        link.send(accepted(1))
        running = asyncio.ensure_future(link.run(cast(Context, call)))
        await call.writing.wait()
        link.end(flush=False)
        await asyncio.sleep(0.1)
        call.may_go.set()
        await running
        assert not call.was_cut_off
        assert endpoint.kinds == ["closed"]

    run_virtual(scenario())


def test_a_message_too_large_is_refused_and_the_link_goes_on() -> None:
    """One prompt beyond the limit does not cost the requests that share the link."""

    async def scenario() -> None:
        endpoint, world = Endpoint(), GrpcWorld(LinkSettings(message_bytes_max=64 * 1024))
        async with joined(world, endpoint) as link:
            large = replace(REQUEST, prompt_token_ids=tuple(range(20_000)))
            start = StartDecode(request=large, ticket=None, emitted_token_ids=(), deadline_s=None)
            with pytest.raises(BodyTooLarge) as caught:
                link.send(start)
            assert caught.value.limit_bytes == 64 * 1024
            assert link.send(cancel(1))
            await endpoint.until(lambda: endpoint.messages == [cancel(1)])

    GrpcWorld().run(scenario())


def test_a_snapshot_larger_than_a_gateway_reads_is_refused() -> None:
    """A broken worker cannot fill a gateway's memory."""

    async def scenario() -> None:
        async with joined(GrpcWorld(LinkSettings(snapshot_blocks_max=99)), Endpoint(block_count=100)) as link:
            with pytest.raises(WorkerLost, match="more than 99 blocks"):
                await link.snapshot()

    GrpcWorld().run(scenario())


class Cable:
    """A TCP path that can be cut so that neither end is told: a machine that lost its power."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._cut = False
        self._writers: list[asyncio.StreamWriter] = []

    async def lay(self) -> tuple[asyncio.Server, str]:
        """Listen; returns the server and the address of the near end."""
        server = await asyncio.start_server(self._joined, "127.0.0.1", 0)
        return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """From now on bytes vanish."""
        self._cut = True

    def remove(self) -> None:
        """Close all connections."""
        for writer in self._writers:
            writer.close()

    async def _joined(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        far, far_writer = await asyncio.open_connection(*self._target)
        self._writers += [near_writer, far_writer]
        await asyncio.gather(self._carry(near, far_writer), self._carry(far, near_writer))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if not self._cut:
                sink.write(data)
                await sink.drain()
        if not self._cut:
            sink.close()


def test_a_dead_machine_is_noticed_by_both_ends() -> None:
    """Without a word on the line, pings find out: the iterator stops and the endpoint hears of the end."""

    async def scenario() -> None:
        settings = LinkSettings(keepalive_s=0.2, keepalive_timeout_s=0.2)
        endpoint, server = Endpoint(), GrpcLinkServer(settings)
        cable = Cable(await server.serve(endpoint))
        listening, address = await cable.lay()
        link = await GrpcDialer(settings).connect(address, gateway_id=GATEWAY, timeout_s=10.0)
        assert endpoint.link.send(accepted(1))
        assert await read(link, 1) == [accepted(1)]
        cable.cut()
        assert await collect(link) == []
        assert not link.send(cancel(1))
        await endpoint.until(lambda: "closed" in endpoint.kinds)
        cable.remove()
        listening.close()
        await link.close()
        await server.close()

    GrpcWorld().run(scenario())


def test_an_address_in_use_is_named() -> None:
    """Two workers on one port do not share it silently: the second refuses to start."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = GrpcLinkServer(LinkSettings(port=port))
            with pytest.raises(ConfigurationInvalid, match=str(port)):
                await server.serve(Endpoint())
        first = GrpcLinkServer(LinkSettings())
        port = int((await first.serve(Endpoint())).rpartition(":")[2])
        with pytest.raises(ConfigurationInvalid, match=str(port)):
            await GrpcLinkServer(LinkSettings(port=port)).serve(Endpoint())
        await first.close()
        again = GrpcLinkServer(LinkSettings(port=port))
        assert await again.serve(Endpoint()) == f"127.0.0.1:{port}"
        await again.close()

    GrpcWorld().run(scenario())


def test_the_advertised_host_is_what_gateways_are_told() -> None:
    """Behind a wildcard or a name, the address is the one that others can reach."""

    async def scenario() -> None:
        server = GrpcLinkServer(LinkSettings(advertised_host="worker-0.example"))
        assert (await server.serve(Endpoint())).startswith("worker-0.example:")
        await server.close()

    GrpcWorld().run(scenario())


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_wildcard_must_be_advertised_by_name(host: str) -> None:
    """An address that nobody could connect to refuses the start and names the key."""
    with pytest.raises(ConfigurationInvalid) as caught:
        LinkSettings(host=host)
    assert caught.value.key == "link.advertised_host"


@pytest.mark.parametrize(
    ("host", "address"), [("10.0.0.1", "10.0.0.1:7"), ("::1", "[::1]:7"), ("[::1]", "[::1]:7")]
)
def test_addresses_are_written_as_others_read_them(host: str, address: str) -> None:
    """An IPv6 host stands in brackets."""
    assert join_address(host, 7) == address
