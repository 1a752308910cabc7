"""Encrypted links: a worker proves who it is, a gateway does too when asked, and nobody else gets in."""

from pathlib import Path

import pytest

from services.domain.errors import ConfigurationInvalid, WorkerLost
from services.domain.ids import GatewayId
from services.link.grpc_client import GrpcDialer
from services.link.grpc_server import GrpcLinkServer
from services.link.settings import LinkSettings, LinkTls
from tests.bus.certificates import Authority, replace_files
from tests.link.rigs import GATEWAY, Endpoint, GrpcWorld, accepted, joined, read

LATER = GatewayId("later")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority that both sides trust."""
    return Authority(tmp_path, "authority")


def settings(authority: Authority, name: str, *, mutual: bool = True) -> LinkSettings:
    """Settings of a process that has a certificate."""
    certificate, key = authority.issue(name)
    tls = LinkTls(
        certificate_file=certificate, key_file=key, authority_file=str(authority.ca_file), mutual=mutual
    )
    return LinkSettings(tls=tls)


def files_of(settings: LinkSettings) -> tuple[str, ...]:
    """Certificate, key and authorities of a process that has them."""
    tls = settings.tls
    assert tls is not None
    return tuple(file for file in (tls.certificate_file, tls.key_file, tls.authority_file) if file)


def test_both_sides_prove_who_they_are(authority: Authority) -> None:
    """With certificates of one authority messages cross."""

    async def scenario() -> None:
        endpoint = Endpoint()
        async with joined(GrpcWorld(settings(authority, "cluster")), endpoint) as link:
            endpoint.link.send(accepted(1))
            assert await read(link, 1) == [accepted(1)]

    GrpcWorld().run(scenario())


def test_strangers_are_kept_out(authority: Authority, tmp_path: Path) -> None:
    """No encryption, no certificate, or one of another authority: the worker hears of none of them."""
    stranger = Authority(tmp_path, "stranger")
    certificate, key = stranger.issue("impostor")
    gateways = (
        LinkSettings(),
        LinkSettings(tls=LinkTls(authority_file=str(authority.ca_file))),
        LinkSettings(
            tls=LinkTls(authority_file=str(authority.ca_file), certificate_file=certificate, key_file=key)
        ),
        LinkSettings(tls=LinkTls(authority_file=str(stranger.ca_file))),
    )

    async def scenario() -> None:
        endpoint, server = Endpoint(), GrpcLinkServer(settings(authority, "worker"))
        address = await server.serve(endpoint)
        for gateway in gateways:
            with pytest.raises(WorkerLost):
                await GrpcDialer(gateway).connect(address, gateway_id=GATEWAY, timeout_s=5.0)
        assert endpoint.events == []
        await server.close()

    GrpcWorld().run(scenario())


def test_a_worker_may_let_nameless_gateways_in(authority: Authority) -> None:
    """Without `mutual` only the worker shows a certificate."""

    async def scenario() -> None:
        endpoint, server = Endpoint(), GrpcLinkServer(settings(authority, "worker", mutual=False))
        address = await server.serve(endpoint)
        dialer = GrpcDialer(LinkSettings(tls=LinkTls(authority_file=str(authority.ca_file))))
        link = await dialer.connect(address, gateway_id=GATEWAY, timeout_s=10.0)
        await link.close()
        await server.close()
        assert endpoint.kinds == ["opened", "closed"]

    GrpcWorld().run(scenario())


def test_a_worker_follows_its_files(tmp_path: Path) -> None:
    """A renewal leaves open links alone; the next gateway meets the new certificate and authority."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    worker, before, after = settings(old, "worker"), settings(old, "before"), settings(new, "after")

    async def scenario() -> None:
        endpoint, server = Endpoint(), GrpcLinkServer(worker)
        address = await server.serve(endpoint)
        link = await GrpcDialer(before).connect(address, gateway_id=GATEWAY, timeout_s=10.0)
        with pytest.raises(WorkerLost):
            await GrpcDialer(after).connect(address, gateway_id=LATER, timeout_s=10.0)
        replace_files(files_of(worker), (*new.issue("renewed"), str(new.ca_file)))
        with pytest.raises(WorkerLost):
            await GrpcDialer(before).connect(address, gateway_id=LATER, timeout_s=10.0)
        await (await GrpcDialer(after).connect(address, gateway_id=LATER, timeout_s=10.0)).close()
        endpoint.events[0][1].send(accepted(1))
        assert await read(link, 1) == [accepted(1)]
        await link.close()
        await server.close()

    GrpcWorld().run(scenario())


def test_half_a_configuration_refuses_the_start(authority: Authority, tmp_path: Path) -> None:
    """A missing file, a missing certificate, half a pair and two halves of different ones are each named."""
    certificate, key = authority.issue("worker")
    _, other = authority.issue("other")
    missing = str(tmp_path / "missing.pem")

    async def serve(tls: LinkTls) -> None:
        await GrpcLinkServer(LinkSettings(tls=tls)).serve(Endpoint())

    async def scenario() -> None:
        for tls, named in (
            (LinkTls(authority_file=str(authority.ca_file)), "certificate_file"),
            (LinkTls(certificate_file=certificate, key_file=key), "authority_file"),
            (LinkTls(certificate_file=missing, key_file=key, mutual=False), "certificate_file"),
            (LinkTls(certificate_file=certificate, key_file=other, mutual=False), "key_file"),
        ):
            with pytest.raises(ConfigurationInvalid) as caught:
                await serve(tls)
            assert caught.value.key == f"link.tls.{named}"

    with pytest.raises(ConfigurationInvalid, match="together"):
        LinkTls(certificate_file=certificate)
    GrpcWorld().run(scenario())
