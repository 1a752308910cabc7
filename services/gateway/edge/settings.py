"""Settings of the edge.

Every bound of the edge is here, with its unit and why it has this default.
Invariant: a combination that could never serve a request is refused.
"""

import msgspec

from services.domain.errors import ConfigurationInvalid


class EdgeTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Encryption towards clients, the same for HTTP and gRPC."""

    certificate_file: str
    """PEM chain that clients are shown, the own certificate first. All files are read anew when they change:
    the next connection sees the new ones, open ones stay."""
    key_file: str
    """PEM private key of `certificate_file`, without a passphrase."""
    client_authority_file: str | None = None
    """PEM authorities that sign clients; who has no certificate of theirs is refused. Null asks for none."""


class EdgeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ports, bounds and patience of one gateway's edge."""

    host: str = "127.0.0.1"
    """Address to listen on. Loopback: a gateway that serves a network is told so."""
    http_port: int = 8000
    """0 lets the system choose."""
    grpc_port: int = 8001
    """0 lets the system choose."""
    metrics_port: int | None = None
    """One more port, for those who watch over a gateway: `/metrics`, `/health/*` and `/baton/v1/cluster`.
    They are on the HTTP port too; here they are never encrypted. 0 lets the system choose; null: no port."""
    tls: EdgeTls | None = None
    """Encryption of the HTTP and the gRPC port; null: none."""

    requests_active_max: int = 1024
    """Sequences in flight (each choice of each prompt counts); more are answered 429."""
    choices_max: int = 64
    """Sequences that one call may ask for: prompts times `n`."""
    connections_max: int = 4096
    """Open HTTP connections; more are answered 503 and closed. Above requests_active_max, because idle
    clients keep connections."""
    body_bytes_max: int = 16 * 1024 * 1024
    """Largest request body: a prompt of two million token ids as JSON."""
    bodies_bytes_max: int = 256 * 1024 * 1024
    """Bodies being read at one time, all calls together; more is answered 429."""
    head_bytes_max: int = 64 * 1024
    """Largest request line and headers together."""

    head_timeout_s: float = 10.0
    """From the first byte of a request (or the connection) to the end of its headers."""
    body_timeout_s: float = 30.0
    """From the end of the headers to the end of the body."""
    idle_timeout_s: float = 75.0
    """A kept-alive connection without a request is closed after this. Above the 60 s of common load
    balancers, so that they close first."""
    stalled_write_timeout_s: float = 30.0
    """A client that reads nothing for so long, while there is something to read, is dropped."""

    chat_output_tokens_max: int = 4096
    """`max_tokens` of a chat call that names none: the context left, but at most this."""
    deadline_s_max: float = 3600.0
    """Longest time a caller may ask for with `x-request-timeout-s` or a gRPC deadline."""

    inline_chars_max: int = 2048
    """Prompts up to so many characters are tokenized on the event loop: at about 0.4 microseconds a
    character that is under 1 ms, less than two switches between threads may cost on a busy machine."""
    tokenize_threads: int = 2
    """Threads for longer prompts; tokenizing releases the interpreter's lock."""
    tokenize_waiting_max: int = 256
    """Prompts waiting for such a thread; more are answered 429."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigurationInvalid: a value is out of range, or two contradict each other.
        """
        for name in ("http_port", "grpc_port", "metrics_port"):
            if not 0 <= (getattr(self, name) or 0) <= 65535:
                raise _invalid(name, "must be a port, 0 to 65535")
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name.endswith(("_max", "_s", "_threads")) and not value > 0:
                raise _invalid(name, f"must be above 0, is {value}")
        if self.choices_max > self.requests_active_max:
            raise _invalid("choices_max", "must not exceed requests_active_max: such a call never fits")
        if self.body_bytes_max > self.bodies_bytes_max:
            raise _invalid("body_bytes_max", "must not exceed bodies_bytes_max: such a body never fits")


def _invalid(name: str, what: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(key=f"edge.{name}", message=f"edge.{name} {what}")
