"""When a process that ended is started again, and when that has been enough: pure.

Comes in: how a process ended, and when it was started again before. Goes out: a verdict that says why.
Invariant: within any `window_s` a process is started again at most `restarts_max` times, each time after
a longer wait than the time before, up to `backoff_max_s`.
Not here: watching and starting (`services.cluster.supervisor`).
"""

from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from services.domain.errors import ConfigurationInvalid

ENDED_IN_ORDER = 0
"""Exit code of a process that was asked to stop and did: whoever asked does not want it back."""


class SupervisionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How processes that die or freeze are replaced."""

    restarts_max: int = 5
    """Times that one process is started again within `window_s`; when it dies once more the cluster ends.
    0 starts nothing again."""

    window_s: float = 600.0
    """How long a restart counts; seconds. Long against a start, so that a process that never gets far is
    noticed."""

    backoff_min_s: float = 0.5
    """Wait before the first restart; seconds. It doubles with each further one that still counts."""

    backoff_max_s: float = 30.0
    """Longest such wait; seconds."""

    liveness_period_s: float = 2.0
    """Time between questions to a process whether it lives; seconds."""

    liveness_timeout_s: float | None = 30.0
    """A process that answers none of them for so long is killed and replaced; seconds, none kills nobody.
    Above any stall of a busy machine: replacing an engine costs more than waiting for it."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be.

        Raises:
            ConfigurationInvalid: names the key.
        """
        if self.restarts_max < 0:
            raise _invalid("restarts_max", "must not be negative")
        for name in ("window_s", "backoff_min_s", "liveness_period_s"):
            if getattr(self, name) <= 0:
                raise _invalid(name, "must be above 0")
        if self.backoff_max_s < self.backoff_min_s:
            raise _invalid("backoff_max_s", "must not be below supervision.backoff_min_s")
        if self.liveness_timeout_s is not None and self.liveness_timeout_s <= self.liveness_period_s:
            raise _invalid("liveness_timeout_s", "must be above supervision.liveness_period_s")


def _invalid(name: str, rule: str) -> ConfigurationInvalid:
    key = f"supervision.{name}"
    return ConfigurationInvalid(key=key, message=f"{key} {rule}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """It ended in order; it stays away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Start it again.

    Attributes:
        after_s: wait before that, seconds.
        restarts_s: when it was started again so far as still counts, this time included; seconds, shape
            [at most `restarts_max`].
    """

    after_s: float
    restarts_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """It died too often; the cluster ends.

    Attributes:
        reason: which bound was reached, in words.
    """

    reason: str


Verdict: TypeAlias = Leave | Restart | GiveUp


def decide(
    exit_code: int, *, restarts_s: tuple[float, ...], now_s: float, settings: SupervisionSettings
) -> Verdict:
    """Decide what follows the end of a process.

    Args:
        exit_code: of the process; negative: the signal that ended it.
        restarts_s: when it was started again before, as the last `Restart` says; seconds.
        now_s: the present on the same clock.
        settings: the bounds.
    """
    if exit_code == ENDED_IN_ORDER:
        return Leave()
    counting = tuple(moment for moment in restarts_s if now_s - moment < settings.window_s)
    if len(counting) >= settings.restarts_max:
        return GiveUp(reason=_too_often(len(counting), settings))
    after_s = min(settings.backoff_max_s, settings.backoff_min_s * 2.0 ** len(counting))
    return Restart(after_s=after_s, restarts_s=(*counting, now_s))


def _too_often(count: int, settings: SupervisionSettings) -> str:
    if not settings.restarts_max:
        return "supervision.restarts_max is 0"
    return f"it was started again {count} times within {settings.window_s:g} s"


def silence_s(before_s: float, *, answered: bool, took_s: float, settings: SupervisionSettings) -> float:
    """Say for how long a process has not answered, after one more question.

    One question adds no more than twice the time between two of them: when this process itself was stopped
    in between, that is nobody else's silence.

    Args:
        before_s: its silence before this question, seconds.
        answered: whether it answered this one.
        took_s: since the question before, seconds.
        settings: the time between questions.
    """
    return 0.0 if answered else before_s + min(took_s, 2 * settings.liveness_period_s)
