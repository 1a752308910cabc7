"""What every cluster that `baton up` brings up can do, wherever its processes are."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from services.cluster.address import GatewayAddress
from services.cluster.local import Progress
from services.cluster.settings import ClusterSettings


class Cluster(Protocol):
    """A cluster that ends with its owner."""

    settings: ClusterSettings
    folder: Path
    addresses: tuple[GatewayAddress, ...]

    @property
    def http_url(self) -> str:
        """Where the first gateway answers HTTP."""
        ...

    @property
    def grpc_address(self) -> str:
        """Where the first gateway answers gRPC."""
        ...

    async def start(self, report: Callable[[Progress], None]) -> None:
        """Start everything and wait until it serves.

        Raises:
            ConfigurationInvalid: what is wanted cannot be here.
            EngineFailed: a part did not come up, or the time was up.
        """
        ...

    async def supervise(self, tell: Callable[[str], None]) -> str:
        """Keep it up; returns why that is over, empty when all ended in order."""
        ...

    def force(self) -> None:
        """Do not wait any longer for an orderly stop."""
        ...

    async def stop(self, *, keep_logs: bool) -> tuple[str, ...]:
        """End everything; returns the names of what did not end in order."""
        ...
