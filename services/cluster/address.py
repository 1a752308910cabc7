"""Where a gateway is reached: by clients, and by those who watch over it.

Comes in: settings of its edge, the ports that it told. Goes out: addresses. Not here: who asks there.
"""

from dataclasses import dataclass

from services.gateway.edge.settings import EdgeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAddress:
    """Where clients reach one gateway, and those who watch over it.

    Attributes:
        host: of all its ports.
        http_port: for clients.
        grpc_port: for clients.
        metrics_port: for those who watch; never encrypted.
        is_encrypted: whether the ports for clients are.
    """

    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    is_encrypted: bool

    @property
    def http_url(self) -> str:
        """For HTTP."""
        return f"{'https' if self.is_encrypted else 'http'}://{self.host}:{self.http_port}"

    @property
    def watch_url(self) -> str:
        """For those who watch."""
        return f"http://{self.host}:{self.metrics_port}"

    @property
    def grpc_address(self) -> str:
        """For gRPC, host:port."""
        return f"{self.host}:{self.grpc_port}"


def gateway_address(edge: EdgeSettings, host: str, ports: tuple[int, ...]) -> GatewayAddress:
    """Name the address of a gateway.

    Args:
        edge: its settings.
        host: by which it is reached.
        ports: as it told them.
    """
    http_port, grpc_port, metrics_port = ports
    return GatewayAddress(
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        is_encrypted=edge.tls is not None,
    )
