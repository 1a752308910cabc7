"""Two pools on Ray Serve, as tests begin with them: two prefill and three decode workers."""

from planner.targets.ray import RayServe
from planner.targets.ray_settings import DeploymentSettings, RayServeSettings
from services.domain.worker import Phase
from tests.planner.ray.serve_server import Deployed, ServeServer

PREFILL, DECODE = "local-prefill", "local-decode"


def server() -> ServeServer:
    """Serve with both pools."""
    return ServeServer(
        {
            PREFILL: Deployed("prefill", 2, ["RUNNING"] * 2),
            DECODE: Deployed("decode", 3, ["RUNNING"] * 3),
            "somebody-elses": Deployed("chat", 1, ["RUNNING"], is_open=False),
        }
    )


def target(serve: ServeServer, *, tries_max: int = 3) -> RayServe:
    """A target on it, with a clock that stands."""
    return RayServe(
        RayServeSettings(
            deployments=(
                DeploymentSettings(phase=Phase.PREFILL, application=PREFILL),
                DeploymentSettings(phase=Phase.DECODE, application=DECODE),
            ),
            url=serve.url,
            retry_s=0.01,
            tries_max=tries_max,
        ),
        now_s=lambda: 100.0,
    )
