"""What both ends of a gRPC link share: method names, channel options, credentials.

Comes in: settings. Goes out: arguments for grpc, of which a standalone router and its askers take the
credentials. Messages cross gRPC as bytes that the codec made: a message that cannot be read is then our own
typed error rather than a failure inside gRPC.
Source of the option names: gRPC core, `include/grpc/impl/channel_arg_names.h` (1.85).
"""

from pathlib import Path

import grpc

from services.domain.errors import BodyTooLarge, ConfigurationInvalid
from services.link.settings import LinkSettings, LinkTls
from services.runtime.certificates import CredentialFiles, Credentials, LiveCredentials, PemFile
from services.runtime.metrics import Meters
from services.wire.generated.baton.internal.v1 import worker_pb2

_SERVICE = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"]
SERVICE = _SERVICE.full_name
ATTACH = f"/{SERVICE}/{_SERVICE.methods_by_name['Attach'].name}"
SNAPSHOT = f"/{SERVICE}/{_SERVICE.methods_by_name['GetKvSnapshot'].name}"

Options = list[tuple[str, str | int]]


def _shared_options(settings: LinkSettings) -> Options:
    """List what both ends limit alike.

    gRPC core ends a dead connection by its ping timeout (default 60 s) and never by its keepalive timeout
    (grpc/grpc pull request 39239; measured with 1.85: not ended after 40 s), so both are set.
    """
    return [
        ("grpc.max_send_message_length", settings.message_bytes_max),
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        ("grpc.keepalive_time_ms", round(settings.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout_s * 1000)),
        ("grpc.http2.ping_timeout_ms", round(settings.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def channel_options(settings: LinkSettings) -> Options:
    """Options of a gateway's channel: its own connection, no retries below us."""
    options = _shared_options(settings)
    options += [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    return options + name_options(settings.tls)


def name_options(tls: LinkTls | None) -> Options:
    """Option of a channel that says which name the other side's certificate must have."""
    if tls is None or tls.server_name is None:
        return []
    return [("grpc.ssl_target_name_override", tls.server_name)]


def server_options(settings: LinkSettings) -> Options:
    """Options of a worker's server: its port is its own, and it lets gateways ping."""
    return [
        *_shared_options(settings),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", round(settings.keepalive_s * 500)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", round(settings.keepalive_s * 500)),
    ]


def channel_credentials(tls: LinkTls) -> grpc.ChannelCredentials:
    """Read a gateway's certificates; they are read anew for each link, so that they may be rotated.

    Raises:
        ConfigurationInvalid: a file cannot be read.
    """
    return grpc.ssl_channel_credentials(
        root_certificates=_read("authority_file", tls.authority_file),
        private_key=_read("key_file", tls.key_file),
        certificate_chain=_read("certificate_file", tls.certificate_file),
    )


def server_credentials(tls: LinkTls, *, listener: str, meters: Meters | None) -> grpc.ServerCredentials:
    """Read the certificates of a worker or a standalone router; they are followed when they change.

    Args:
        tls: what to read.
        listener: who shows them, a label of metrics.
        meters: of this process.

    Raises:
        ConfigurationInvalid: a file is missing, cannot be read, or does not fit the others.
    """
    if tls.certificate_file is None or tls.key_file is None:
        raise ConfigurationInvalid(
            key="link.tls.certificate_file",
            message="link.tls.certificate_file: a worker or router needs one",
        )
    if tls.mutual and tls.authority_file is None:
        raise ConfigurationInvalid(
            key="link.tls.authority_file",
            message="link.tls.authority_file: needed to check gateways while link.tls.mutual is true",
        )
    files = CredentialFiles(
        certificate=PemFile(key="link.tls.certificate_file", path=tls.certificate_file),
        private_key=PemFile(key="link.tls.key_file", path=tls.key_file),
        authorities=PemFile(key="link.tls.authority_file", path=tls.authority_file)
        if tls.mutual and tls.authority_file is not None
        else None,
    )
    return following_credentials(LiveCredentials(files, listener=listener, meters=meters))


def following_credentials(live: LiveCredentials) -> grpc.ServerCredentials:
    """Show clients what the files hold when they connect; open connections stay as they are."""
    shown = live.current()

    def changed() -> grpc.ServerCertificateConfiguration | None:  # asked by gRPC before each handshake
        nonlocal shown
        found = live.current()
        if found is shown:
            return None
        shown = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        changed,  # type: ignore[arg-type]  # None is "no change", as gRPC documents
        shown.authorities is not None,
    )


def _configuration(found: Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(found.private_key, found.chain)], found.authorities)


def _read(key: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationInvalid(
            key=f"link.tls.{key}", message=f"link.tls.{key}: {path}: {error.strerror}"
        ) from None


def check_size(data: bytes, settings: LinkSettings) -> bytes:
    """Return an encoded message that a link carries.

    Raises:
        BodyTooLarge: it is larger; sending it would break the link for all its requests.
    """
    limit = settings.message_bytes_max
    if len(data) > limit:
        message = f"the message has {len(data)} bytes; a link carries {limit} at most"
        raise BodyTooLarge(message=message, limit_bytes=limit)
    return data
