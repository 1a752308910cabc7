"""Settings of the scale target on Ray Serve.

Comes in: the `target` section of a planner's settings. Goes out: a frozen struct. Invariant: a value that
cannot be refuses the start and names the key. Not here: requests (`ray`).
"""

from typing import Annotated

import msgspec

from services.domain.errors import ConfigurationInvalid
from services.domain.worker import Phase

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class DeploymentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One deployment of Serve: the workers of one role and kind."""

    phase: Phase
    """Role of its workers."""

    application: str
    """Of Serve, such as `local-prefill`."""

    deployment: str = ""
    """In that application; empty takes the name of the phase, as `baton up --on ray` does."""

    kind: str = "default"
    """Kind of its workers, as in `planner.kinds`."""

    @property
    def name(self) -> str:
        """Of the deployment."""
        return self.deployment or self.phase.value


class RayServeSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="target", tag="ray"
):
    """Deployments of Ray Serve, scaled by its REST API."""

    deployments: tuple[DeploymentSettings, ...]
    """All that the planner scales."""

    url: str = "http://127.0.0.1:8265"
    """Of Ray's dashboard, which has Serve's REST API."""

    token_file: str = "~/.ray/auth_token"  # where Ray keeps it
    """Ray's token; read anew for each request. The variables RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH come
    first, as for Ray itself; no file is no token."""

    request_timeout_s: _Positive = 5.0
    """For one answer."""

    tries_max: Annotated[int, msgspec.Meta(ge=1)] = 4
    """Tries of one request that the server cannot answer now."""

    retry_s: _Positive = 0.5
    """Pause before the second try; doubled with each, and at least what the server asks for."""

    def __post_init__(self) -> None:
        """Refuse deployments that are not told apart.

        Raises:
            ConfigurationInvalid: names the key.
        """
        pools = [(each.phase, each.kind) for each in self.deployments]
        if not pools:
            raise ConfigurationInvalid(
                key="target.deployments", message="target.deployments: name at least one"
            )
        if len(set(pools)) != len(pools):
            raise ConfigurationInvalid(
                key="target.deployments", message="target.deployments: one per phase and kind"
            )
