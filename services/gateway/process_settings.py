"""Settings of a gateway process."""

import msgspec

from services.bus.settings import BusSettings
from services.domain.errors import ConfigurationInvalid
from services.gateway.edge.settings import EdgeSettings
from services.gateway.settings import ConductorSettings
from services.link.settings import LinkSettings
from services.router.settings import RouterSettings
from services.runtime.telemetry import LogFormat


class ModelAsset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Tokenizer and chat template of one served model."""

    name: str
    """Name that clients ask for."""

    folder: str
    """Folder with config.json, tokenizer.json and tokenizer_config.json."""


class GatewayProcessSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One gateway."""

    bus: BusSettings
    """How NATS is reached."""

    models: tuple[ModelAsset, ...]
    """Models whose text this gateway can read and write."""

    edge: EdgeSettings = EdgeSettings()
    conductor: ConductorSettings = ConductorSettings()
    router: RouterSettings = RouterSettings()
    link: LinkSettings = LinkSettings()

    router_address: str | None = None
    """host:port of a standalone router (`baton router`) that decides instead; none decides here."""

    ports_file: str | None = None
    """Where the chosen ports are written as a JSON list, for whoever asked for port 0: HTTP, gRPC and, if
    there is one, metrics."""

    log_format: LogFormat = LogFormat.TEXT
    """How log lines look."""

    parent_pid: int | None = None
    """End when this process ends; set by whoever starts the process and outlives it."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigurationInvalid(key="models", message="models: name at least one model and its folder")
