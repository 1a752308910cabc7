"""Settings of the observers."""

from typing import Annotated

import msgspec

from services.bus.settings import BusSettings

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class GatewaysSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="source", tag="gateways"
):
    """Demand from the gateways' own `/metrics`, workers and queue over NATS."""

    urls: tuple[str, ...] = ("http://127.0.0.1:8000/metrics",)
    """Metrics of every gateway. One that does not answer is left out; none that answers is no observation."""

    bus: BusSettings | None = None
    """How NATS is reached; null: only gateways are watched, and pools are the scale target's."""

    request_timeout_s: _Positive = 5.0
    """For an answer of a gateway."""


class PrometheusSettings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="source",
    tag="prometheus",
):
    """Everything from a Prometheus server."""

    url: str
    """Base of its HTTP API, such as http://prometheus:9090."""

    window_s: _Positive = 30.0
    """Window of every rate. At least two scrapes, or nothing can be told of it."""

    selector: str = ""
    """Label matchers that every query carries, such as `namespace="llm"`."""

    token_env: str | None = None
    """Environment variable with a bearer token."""

    request_timeout_s: _Positive = 5.0
    """For one answer."""
