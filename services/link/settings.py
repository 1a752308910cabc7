"""Settings of the links between gateways and workers.

Comes in: the `link` section of the settings. Goes out: a frozen value.
Invariant: an impossible combination refuses the start and names the key.
Not here: limits that are part of the contract (`services.link.port`).
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from services.domain.errors import ConfigurationInvalid

WILDCARDS = frozenset({"0.0.0.0", "::", "[::]"})  # noqa: S104  # compared with, not bound to
"""Hosts that mean every interface, and so name none that a gateway could connect to."""


class LinkTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Encryption of links, and of questions to a standalone router.

    Who listens, a worker or a router, always shows a certificate; a gateway may have to. Files are read anew
    when they change: for each connection that is accepted or made.
    """

    certificate_file: Annotated[
        str | None, Meta(description="PEM chain this process shows; a worker or router needs one.")
    ] = None
    key_file: Annotated[str | None, Meta(description="PEM private key of `certificate_file`.")] = None
    authority_file: Annotated[
        str | None,
        Meta(description="PEM authorities that sign the other side; null trusts the system's."),
    ] = None
    mutual: Annotated[
        bool,
        Meta(
            description="Whether a worker or router refuses gateways without a certificate. Default: it does."
        ),
    ] = True
    server_name: Annotated[
        str | None,
        Meta(
            description="Name expected in the certificate of a worker or router; null expects the host "
            "connected to."
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse half a pair.

        Raises:
            ConfigurationInvalid: a certificate without its key, or a key without its certificate.
        """
        if (self.certificate_file is None) != (self.key_file is None):
            raise ConfigurationInvalid(
                key="link.tls.key_file",
                message="link.tls.certificate_file and link.tls.key_file must be given together",
            )


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a worker is reached and how both ends watch over a link."""

    host: Annotated[
        str, Meta(min_length=1, description="Address a worker listens on. Default: this machine only.")
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="Port a worker listens on; 0 takes a free one.")
    ] = 0
    advertised_host: Annotated[
        str | None,
        Meta(description="Host gateways connect to; null is `host`, which then must name one interface."),
    ] = None
    keepalive_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Silence after which the other side is pinged, s. With `keepalive_timeout_s` it "
            "bounds how long a dead machine goes unnoticed. Default: both give 10 s.",
        ),
    ] = 5.0
    keepalive_timeout_s: Annotated[
        float, Meta(gt=0, description="Wait for the answer to a ping before the link is broken, s.")
    ] = 5.0
    hello_timeout_s: Annotated[
        float, Meta(gt=0, description="Wait of a worker for a gateway's first message, s.")
    ] = 5.0
    close_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Most time for sending what waits when a link is closed in order, s. Default: long "
            "for a live peer, short for a shutdown.",
        ),
    ] = 1.0
    message_bytes_max: Annotated[
        int,
        Meta(
            ge=64 * 1024,
            le=2**31 - 1,
            description="Largest message, bytes. Default: a prompt of four million tokens.",
        ),
    ] = 16 * 1024 * 1024 + 64 * 1024
    snapshot_blocks_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Most blocks a gateway reads from one snapshot. Default: four times a worker with "
            "a million tokens in blocks of one.",
        ),
    ] = 4_000_000
    calls_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Streams and snapshot calls a worker serves at once. Default: hundreds of gateways, "
            "each with its stream and a snapshot.",
        ),
    ] = 1024
    tls: Annotated[LinkTls | None, Meta(description="Encryption; null sends in the clear.")] = None

    def __post_init__(self) -> None:
        """Refuse an address that no gateway could connect to.

        Raises:
            ConfigurationInvalid: every interface is bound and none is advertised.
        """
        if self.host in WILDCARDS and self.advertised_host is None:
            raise ConfigurationInvalid(
                key="link.advertised_host",
                message=f"link.advertised_host: needed when link.host is {self.host}",
            )


def join_address(host: str, port: int) -> str:
    """Write host:port, an IPv6 host in brackets."""
    bare = host.removeprefix("[").removesuffix("]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"
