"""Settings of the conductor: how patient it is and what it remembers."""

import msgspec

from services.domain.errors import ConfigurationInvalid


class ConductorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a request is led through the cluster."""

    deadline_s: float = 600.0
    """Deadline of requests that name none; seconds. Long enough for long outputs, never infinite."""

    claim_patience_s: float = 5.0
    """Longest wait for a prefill worker to claim a task, beyond the wait that was predicted, before decode
    prefills it; seconds."""

    waiting_max: int = 1024
    """New requests that wait in the gateway until a decode worker has room; count. More are answered 429. As
    many as the edge serves at once: the time that they wait is bounded more tightly, by the router's
    `wait_bound_factor`."""

    recovery_patience_s: float = 60.0
    """Longest wait for a worker when a running request has lost its own; seconds. About what a worker takes
    to be replaced: a client that has tokens already can only lose by an error."""

    link_patience_s: float = 2.0
    """Longest wait of a new request for a link, when workers serve but none can be reached; seconds. A
    gateway that stood still finds its links closed, and opens them again within that time."""

    lease_margin_s: float = 0.5
    """Taken off every lease, for the time messages travel; seconds."""

    attempts_max: int = 8
    """Attempts (prefill and decode) of one request before it fails; count. A handed-over request takes two;
    the others are for workers that die one after another, as in a rollout that goes wrong."""

    records_max: int = 2000
    """Ended requests kept for `baton explain`; count."""

    drain_timeout_s: float = 60.0
    """Longest wait for running requests after the first signal; seconds."""

    def __post_init__(self) -> None:
        for name in (
            "deadline_s",
            "claim_patience_s",
            "waiting_max",
            "recovery_patience_s",
            "link_patience_s",
            "attempts_max",
            "records_max",
            "drain_timeout_s",
        ):
            if getattr(self, name) <= 0:
                raise ConfigurationInvalid(
                    key=f"conductor.{name}", message=f"conductor.{name} must be above 0"
                )
        if self.lease_margin_s < 0:
            raise ConfigurationInvalid(
                key="conductor.lease_margin_s", message="conductor.lease_margin_s must not be negative"
            )
