"""Settings of a standalone router process."""

import msgspec

from services.bus.settings import BusSettings
from services.link.settings import LinkSettings
from services.router.settings import RouterSettings
from services.runtime.telemetry import LogFormat


class RouterProcessSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One router that gateways ask over gRPC."""

    bus: BusSettings
    """How NATS is reached."""

    address: str = "127.0.0.1:8002"
    """host:port to listen on; port 0 takes a free one, which the log names."""

    router: RouterSettings = RouterSettings()
    link: LinkSettings = LinkSettings()

    metrics_port: int | None = 0
    """Port of `/metrics`, `/health/live` and `/health/ready` on the link's host; 0 chooses one, none
    serves none."""

    ports_file: str | None = None
    """Where the chosen metrics port is written as a JSON list, for whoever asked for port 0."""

    log_format: LogFormat = LogFormat.TEXT
    """How log lines look."""

    parent_pid: int | None = None
    """End when this process ends; set by whoever starts the process and outlives it."""
