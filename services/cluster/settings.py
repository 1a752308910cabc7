"""Settings of a cluster on this machine: what `baton up` reads from YAML and flags.

Comes in: one file, or nothing. Goes out: a frozen struct from which every process's own settings follow.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from services.bus.settings import LOOPBACK, BusLimits, BusSettings, TlsSettings
from services.cluster.ray.settings import RaySettings
from services.cluster.supervision import SupervisionSettings
from services.domain.errors import ConfigurationInvalid
from services.engine.simulated.settings import SimulatedSettings
from services.engine.vllm.settings import VllmSettings
from services.gateway.edge.settings import EdgeSettings
from services.gateway.settings import ConductorSettings
from services.prefill.settings import PrefillSettings
from services.router.settings import RouterSettings
from services.runtime.telemetry import LogFormat


class EngineKind(StrEnum):
    """Which engine the workers run."""

    VLLM = "vllm"
    SIMULATED = "simulated"


class PoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many workers there are, by role."""

    prefill: int = 1
    """Workers that only read prompts; count."""

    decode: int = 1
    """Workers that write tokens (and read prompts when that is cheaper); count."""

    both: int = 0
    """Soft-roled workers that take tasks from the queue as well; count."""

    @property
    def total(self) -> int:
        """All workers."""
        return self.prefill + self.decode + self.both

    def __post_init__(self) -> None:
        for name in ("prefill", "decode", "both"):
            if getattr(self, name) < 0:
                raise ConfigurationInvalid(key=f"pools.{name}", message=f"pools.{name} must not be negative")
        if self.decode + self.both < 1:
            raise ConfigurationInvalid(
                key="pools.decode",
                message="pools: at least one worker must decode (pools.decode or pools.both)",
            )


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which model is served."""

    name: str = "baton-tiny"
    """Name that clients ask for."""

    folder: str | None = None
    """Folder with weights, config and tokenizer; none takes the tiny model that Baton ships."""


class NatsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which NATS the cluster uses."""

    url: str | None = None
    """An existing server; none starts an embedded one."""

    port: int = 0
    """Port of the embedded server; 0 chooses a free one."""

    credentials_file: str | None = None
    """Credentials file (JWT and key) for an existing server."""

    user: str | None = None
    """User name at an existing server."""

    password_env: str | None = None
    """Environment variable that holds the password of `user`."""

    token_env: str | None = None
    """Environment variable that holds an access token for an existing server."""

    tls: TlsSettings | None = None
    """Encryption towards an existing server; none uses it only when the URL says tls://."""

    def __post_init__(self) -> None:
        ways = (self.credentials_file, self.user, self.password_env, self.token_env, self.tls)
        if self.url is None and any(way is not None for way in ways):
            raise ConfigurationInvalid(
                key="nats.url",
                message="nats: credentials and encryption are for an existing server: set nats.url",
            )
        try:
            self.connection(self.url or "", namespace="any", limits=BusLimits())
        except ConfigurationInvalid as error:
            raise ConfigurationInvalid(
                key=error.key.replace("bus.", "nats.", 1), message=error.message.replace("bus.", "nats.")
            ) from None

    def connection(self, url: str, *, namespace: str, limits: BusLimits) -> BusSettings:
        """Say how a process of this cluster reaches NATS.

        Args:
            url: where it answers; the embedded server's is known once it runs.
            namespace: name of the cluster.
            limits: of queue and buffers.

        Raises:
            ConfigurationInvalid: ways to log in contradict each other.
        """
        return BusSettings(
            url=url,
            namespace=namespace,
            credentials_file=self.credentials_file,
            user=self.user,
            password_env=self.password_env,
            token_env=self.token_env,
            tls=self.tls,
            limits=limits,
        )


class LauncherSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where workers are started, turned and let go while the cluster runs."""

    host: str = LOOPBACK
    """Address to listen on. Whoever reaches it may scale the cluster."""

    port: int = 8002
    """Its port; 0 takes a free one."""

    drain_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 90.0
    """Longest wait for a worker that was let go before it is killed; seconds. Above the time that it gives
    its own requests (60 s)."""


class ClusterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cluster on this machine."""

    name: str = "local"
    """Namespace on the bus: clusters that share a NATS server need different names."""

    model: ModelSettings = ModelSettings()
    pools: PoolSettings = PoolSettings()

    engine: EngineKind = EngineKind.VLLM
    """`vllm` computes; `simulated` takes its times from a performance model and needs no weights."""

    vllm: VllmSettings | None = None
    """Settings of vLLM engines; none takes what suits the shipped model on a CPU."""

    simulated: SimulatedSettings = SimulatedSettings()
    """Settings of simulated engines."""

    cores: tuple[tuple[int, ...], ...] = ()
    """CPU cores of each engine, first engine first; empty divides all cores evenly among CPU engines and
    binds GPU engines to none."""

    nats: NatsSettings = NatsSettings()
    bus: BusLimits = BusLimits()
    edge: EdgeSettings = EdgeSettings()
    conductor: ConductorSettings = ConductorSettings()
    router: RouterSettings = RouterSettings()
    prefill: PrefillSettings = PrefillSettings()
    supervision: SupervisionSettings = SupervisionSettings()

    launcher: LauncherSettings | None = None
    """Lets workers be started, turned and let go while the cluster runs, by `baton scale` and by a planner
    (`baton up --plan`); each worker is then a process of its own. None: the pools stay as they are."""

    ray: RaySettings = RaySettings()

    gateways: int = 1
    """Gateways, each with a router of its own unless there is a standalone one; the first takes the ports of
    `edge`, the others free ones. Clients that can go to another lose none to a gateway that dies."""

    standalone_router: bool = False
    """Run the router as a process of its own that the gateway asks; otherwise it lives in the gateway."""

    run_folder: str | None = None
    """Where logs and settings of the processes go; none makes a folder under the system's temporary one."""

    start_timeout_s: float = 300.0
    """Longest wait until all workers are ready; seconds. Weights may have to be read."""

    stop_timeout_s: float = 20.0
    """Longest wait for processes to end after a stop before they are killed; seconds."""

    log_format: LogFormat = LogFormat.TEXT
    """How log lines look."""

    def __post_init__(self) -> None:
        if self.cores and len(self.cores) != self.pools.total:
            raise ConfigurationInvalid(
                key="cores", message=f"cores: {len(self.cores)} entries for {self.pools.total} workers"
            )
        if self.gateways < 1:
            raise ConfigurationInvalid(key="gateways", message="gateways must be at least 1")
        for name in ("start_timeout_s", "stop_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigurationInvalid(key=name, message=f"{name} must be above 0")
