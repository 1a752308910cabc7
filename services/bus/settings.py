"""Settings of the bus: where NATS is, who we are there, and every limit of queue and buffers.

Comes in: the `bus` part of a process's settings file and environment. Goes out: frozen structs.
Invariant: each limit has a name and a reason; an impossible value is refused, never clamped.
Not here: reading settings files (`services.runtime`).
"""

import os
from typing import Annotated

import msgspec
from msgspec import Meta

from services.domain.errors import ConfigurationInvalid

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""Largest message of the embedded server: two million prompt tokens at four bytes each."""

LOOPBACK = "127.0.0.1"


class BusLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the bus holds at most, and for how long."""

    queue_tasks_max: Annotated[
        Count,
        Meta(
            description="Tasks in the prefill queue, claimed or not; the next is refused as saturated. "
            "Default: minutes of work for dozens of workers, yet small enough for every worker to look at."
        ),
    ] = 4096
    queue_bytes_max: Annotated[
        Count,
        Meta(description="Bytes of all task bodies. Default: 1 GiB, a quarter megabyte per task."),
    ] = 1024 * 1024 * 1024
    body_bytes_max: Annotated[
        Count,
        Meta(
            description="Bytes of one task's body; a NATS server's own max_payload may be lower and then "
            "decides. Default: what the embedded server takes, less room for headers."
        ),
    ] = MESSAGE_BYTES_MAX - 64 * 1024
    claim_ttl_s: Annotated[
        Seconds,
        Meta(
            description="Seconds without renewal after which a claim ends. Default: long against a pause "
            "of a busy process, short against what a client waits for its first token."
        ),
    ] = 5.0
    task_age_max_s: Annotated[
        Seconds,
        Meta(
            description="Seconds after which a task leaves the queue even without a deadline. Default: "
            "longer than any client waits."
        ),
    ] = 600.0
    kv_batches_max: Annotated[
        Count,
        Meta(
            description="KV event batches a subscriber may lag behind before the oldest are dropped. "
            "Default: several seconds of a large fleet; a gap costs a snapshot only."
        ),
    ] = 8192
    workers_max: Annotated[
        Count,
        Meta(description="Worker statuses in the fleet bucket. Default: far above any one cluster."),
    ] = 4096
    saturated_retry_s: Annotated[
        Seconds,
        Meta(
            description="Seconds after which a caller refused by a full queue may try again, when nothing "
            "better is known. Default: a few prefills."
        ),
    ] = 1.0


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Encryption towards the NATS server; paths of PEM files."""

    ca_file: Annotated[
        str | None, Meta(description="Authorities that may sign the server; null trusts the system's.")
    ] = None
    cert_file: Annotated[str | None, Meta(description="Our certificate, if asked for.")] = None
    key_file: Annotated[str | None, Meta(description="Private key of `cert_file`.")] = None
    server_name: Annotated[
        str | None, Meta(description="Name expected in the server's certificate; null takes the URL's host.")
    ] = None


class BusSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a process reaches the bus."""

    url: Annotated[
        str,
        Meta(
            description="NATS servers, separated by commas: nats://host:port or tls://host:port. Default: "
            "a server of one's own on this machine."
        ),
    ] = f"nats://{LOOPBACK}:4222"
    namespace: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$",
            description="Name of the cluster: clusters with different names share a server without meeting.",
        ),
    ] = "baton"
    credentials_file: Annotated[
        str | None, Meta(description="NATS credentials file (JWT and key); null logs in otherwise.")
    ] = None
    user: Annotated[str | None, Meta(description="User name; null logs in without.")] = None
    password_env: Annotated[
        str | None, Meta(description="Environment variable that holds the password of `user`.")
    ] = None
    token_env: Annotated[str | None, Meta(description="Environment variable with an access token.")] = None
    tls: Annotated[
        TlsSettings | None, Meta(description="Encryption; null uses it only when the URL says tls://.")
    ] = None
    connect_timeout_s: Annotated[
        Seconds, Meta(description="Seconds to the first connection. Default: a server that is starting.")
    ] = 10.0
    request_timeout_s: Annotated[
        Seconds,
        Meta(
            description="Seconds until an unconfirmed request counts as failed. Default: far above the "
            "sub-millisecond norm, short enough to fall back to local prefill."
        ),
    ] = 2.0
    reconnect_wait_max_s: Annotated[
        Seconds,
        Meta(description="Most seconds between two tries to reconnect; tries begin at 50 ms and never end."),
    ] = 2.0
    heartbeat_s: Annotated[
        Annotated[float, Meta(ge=0.1)],
        Meta(
            description="Seconds between signs of life of a quiet watch; after three missing ones it is "
            "opened anew. Default: notices a dead watch within the life of a claim."
        ),
    ] = 1.0
    publish_buffer_bytes: Annotated[
        Count, Meta(description="Bytes that may wait to be sent. Default: a few of the largest bodies.")
    ] = 32 * 1024 * 1024
    replicas: Annotated[
        int,
        Meta(ge=1, le=5, description="Copies of queue and fleet in a NATS cluster. Default: one server."),
    ] = 1
    queue_in_memory: Annotated[
        bool,
        Meta(description="Keep the queue in the server's memory. Default: on disk, to survive its restart."),
    ] = False
    limits: BusLimits = BusLimits()

    def __post_init__(self) -> None:
        """Refuse combinations that cannot work.

        Raises:
            ConfigurationInvalid: naming the key at fault.
        """
        if (self.user is None) != (self.password_env is None):
            raise ConfigurationInvalid(
                key="bus.password_env", message="bus.user and bus.password_env must be given together"
            )
        ways = [self.credentials_file, self.user, self.token_env]
        if sum(way is not None for way in ways) > 1:
            raise ConfigurationInvalid(
                key="bus.credentials_file",
                message="give only one of bus.credentials_file, bus.user and bus.token_env",
            )
        if self.tls is not None and (self.tls.cert_file is None) != (self.tls.key_file is None):
            raise ConfigurationInvalid(
                key="bus.tls.key_file", message="bus.tls.cert_file and bus.tls.key_file go together"
            )


class EmbeddedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A NATS server of our own on this machine, bound to loopback."""

    port: Annotated[
        int, Meta(ge=0, le=65535, description="Port; 0 takes a free one, so that clusters run side by side.")
    ] = 0
    store_dir: Annotated[
        str | None,
        Meta(description="Folder of the durable queue; null keeps it in a folder removed at the stop."),
    ] = None
    log_file: Annotated[
        str | None, Meta(description="Where the server logs; null logs to `nats.log` in its folder.")
    ] = None
    start_timeout_s: Annotated[
        Seconds, Meta(description="Seconds until it must answer. Default: a slow disk.")
    ] = 10.0
    stop_timeout_s: Annotated[
        Seconds, Meta(description="Seconds from a polite stop to a forced one. Default: a flush of its disk.")
    ] = 5.0
    user: Annotated[str | None, Meta(description="User name that clients must give.")] = None
    password_env: Annotated[
        str | None, Meta(description="Environment variable that holds the password of `user`.")
    ] = None
    token_env: Annotated[
        str | None, Meta(description="Environment variable with a token that clients must give.")
    ] = None
    tls_cert_file: Annotated[str | None, Meta(description="Server certificate, PEM; null: no TLS.")] = None
    tls_key_file: Annotated[str | None, Meta(description="Private key of the certificate, PEM.")] = None
    tls_client_ca_file: Annotated[
        str | None, Meta(description="Authorities that clients' certificates must come from.")
    ] = None

    def __post_init__(self) -> None:
        """Refuse combinations that cannot work.

        Raises:
            ConfigurationInvalid: naming the key at fault.
        """
        if (self.user is None) != (self.password_env is None):
            raise ConfigurationInvalid(
                key="bus.embedded.password_env",
                message="bus.embedded.user and bus.embedded.password_env must be given together",
            )
        if self.user is not None and self.token_env is not None:
            raise ConfigurationInvalid(
                key="bus.embedded.token_env",
                message="give only one of bus.embedded.user and bus.embedded.token_env",
            )
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ConfigurationInvalid(
                key="bus.embedded.tls_key_file",
                message="bus.embedded.tls_cert_file and bus.embedded.tls_key_file go together",
            )


def read_secret(key: str, variable: str) -> str:
    """Read a secret from the environment, so that it stands in no file and no argument list.

    Raises:
        ConfigurationInvalid: the variable is not set; names the setting, never a value.
    """
    value = os.environ.get(variable)
    if not value:
        raise ConfigurationInvalid(
            key=key, message=f"{key} names the environment variable {variable}, which is not set"
        )
    return value
