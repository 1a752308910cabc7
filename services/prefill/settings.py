"""Settings of the prefill phase."""

import msgspec

from services.domain.errors import ConfigurationInvalid


class PrefillSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a worker takes tasks from the queue and how long it stands by what it hands over."""

    attempts_max: int = 3
    """Claims of one task, over all workers, before its gateway is told to go on without; count.
    Three: one bad worker and one accident."""

    renew_s: float = 1.0
    """Time between renewals of a claim; seconds. Well under the bus's `claim_ttl_s`."""

    answer_timeout_s: float = 10.0
    """How long a finished handoff waits for its gateway's answer; seconds. Under the lease."""

    def __post_init__(self) -> None:
        for name, least in (("attempts_max", 1), ("renew_s", 0.01), ("answer_timeout_s", 0.01)):
            if getattr(self, name) < least:
                raise ConfigurationInvalid(
                    key=f"prefill.{name}", message=f"prefill.{name} must be at least {least}"
                )
