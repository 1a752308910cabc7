"""Encrypted links: a worker proves who it is, a gateway does too when asked, and nobody else gets in."""

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.domain.errors import ConfigurationInvalid, WorkerLost
from services.link.grpc_client import GrpcDialer
from services.link.grpc_server import GrpcLinkServer
from services.link.settings import LinkSettings, LinkTls
from tests.link.rigs import GATEWAY, Endpoint, GrpcWorld, accepted, joined, read

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs throw-away certificates into one folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = self._signed(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
        self.file = self._write(f"{name}.pem", own.public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str) -> tuple[str, str]:
        """Make a certificate for 127.0.0.1 and its key; returns both files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._signed(subject, key.public_key(), host)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        written = self._write(f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))
        return written, self._write(f"{name}.key", private)

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - DAY).not_valid_after(now + DAY)
        critical = isinstance(extension, x509.BasicConstraints)
        return builder.add_extension(extension, critical=critical).sign(self._key, hashes.SHA256())

    def _write(self, name: str, data: bytes) -> str:
        path = self._folder / name
        path.write_bytes(data)
        return str(path)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority that both sides trust."""
    return Authority(tmp_path, "authority")


def settings(authority: Authority, name: str, *, mutual: bool = True) -> LinkSettings:
    """Settings of a process that has a certificate."""
    certificate, key = authority.sign(name)
    tls = LinkTls(certificate_file=certificate, key_file=key, authority_file=authority.file, mutual=mutual)
    return LinkSettings(tls=tls)


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
    certificate, key = stranger.sign("impostor")
    gateways = (
        LinkSettings(),
        LinkSettings(tls=LinkTls(authority_file=authority.file)),
        LinkSettings(tls=LinkTls(authority_file=authority.file, certificate_file=certificate, key_file=key)),
        LinkSettings(tls=LinkTls(authority_file=stranger.file)),
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
        dialer = GrpcDialer(LinkSettings(tls=LinkTls(authority_file=authority.file)))
        link = await dialer.connect(address, gateway_id=GATEWAY, timeout_s=10.0)
        await link.close()
        await server.close()
        assert endpoint.kinds == ["opened", "closed"]

    GrpcWorld().run(scenario())


def test_half_a_configuration_refuses_the_start(authority: Authority, tmp_path: Path) -> None:
    """A missing file, a missing certificate and half a pair are each named."""
    certificate, key = authority.sign("worker")
    missing = str(tmp_path / "missing.pem")

    async def serve(tls: LinkTls) -> None:
        await GrpcLinkServer(LinkSettings(tls=tls)).serve(Endpoint())

    async def scenario() -> None:
        for tls, named in (
            (LinkTls(authority_file=authority.file), "certificate_file"),
            (LinkTls(certificate_file=certificate, key_file=key), "authority_file"),
            (LinkTls(certificate_file=missing, key_file=key, mutual=False), "certificate_file"),
        ):
            with pytest.raises(ConfigurationInvalid) as caught:
                await serve(tls)
            assert caught.value.key == f"link.tls.{named}"

    with pytest.raises(ConfigurationInvalid, match="together"):
        LinkTls(certificate_file=certificate)
    GrpcWorld().run(scenario())
