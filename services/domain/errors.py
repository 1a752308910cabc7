"""Every way in which a request can end without its answer.

    ServingError
    ├── Rejected            no work began; the caller may change or repeat the request
    │   ├── InvalidRequest, ContextTooLong, BodyTooLarge, UnknownModel, Unsupported
    │   ├── RateLimited, Saturated, DeadlineUnmeetable, NotReady
    ├── Aborted             work began and was given up
    │   ├── ClientGone, DeadlineExceeded, WorkerLost, KvLost, KvCorrupt, EngineFailed
    └── Fault               ours
        ├── TicketInvalid, BusUnavailable, ConfigurationInvalid, InternalFault

Each leaf has a stable `code`, typed attributes and a `retryable` fact. The gateway maps each leaf
once to an HTTP status and a gRPC code. Not here: expected outcomes of a decision; those are values.
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(kw_only=True)
class ServingError(Exception):
    """Root of the tree."""

    code: ClassVar[str] = "serving_error"
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later without any change to it."""

    message: str
    """What happened and what to do about it, for a person."""

    def __str__(self) -> str:
        return self.message

    def __hash__(self) -> int:
        return hash((self.code, self.message))


@dataclass(kw_only=True)
class Rejected(ServingError):
    """Refused before any work began."""

    code: ClassVar[str] = "rejected"
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class InvalidRequest(Rejected):
    """The request itself is wrong."""

    code: ClassVar[str] = "invalid_request"
    param: str | None = None
    """Dotted name of the field at fault, if one is."""
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class ContextTooLong(Rejected):
    """Prompt and output do not fit the model's context or any worker's KV memory."""

    code: ClassVar[str] = "context_length_exceeded"
    prompt_tokens: int
    limit_tokens: int
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class BodyTooLarge(Rejected):
    """The request body is larger than the gateway reads."""

    code: ClassVar[str] = "body_too_large"
    limit_bytes: int
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class UnknownModel(Rejected):
    """No worker of this cluster serves the model."""

    code: ClassVar[str] = "model_not_found"
    model: str
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class Unsupported(Rejected):
    """A field that Baton knows and does not serve."""

    code: ClassVar[str] = "unsupported"
    param: str
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class RateLimited(Rejected):
    """The caller used up its own allowance."""

    code: ClassVar[str] = "rate_limited"
    retryable: ClassVar[bool] = True
    retry_after_s: float
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class Saturated(Rejected):
    """The cluster has no room now."""

    code: ClassVar[str] = "saturated"
    retryable: ClassVar[bool] = True
    retry_after_s: float
    room_in_s: float | None = None
    """When room is expected for this very request, so that waiting for it here may be worth while; None
    when more work is ahead than the limits allow, and only a later try makes sense."""
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class DeadlineUnmeetable(Rejected):
    """The predicted time is longer than the caller would wait."""

    code: ClassVar[str] = "deadline_unmeetable"
    retryable: ClassVar[bool] = True
    predicted_s: float
    deadline_s: float
    retry_after_s: float | None = None
    """After which the work now ahead is predicted to be done; None when even an idle cluster would be too
    slow, so that only a longer deadline helps."""
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class NotReady(Rejected):
    """The model is known, but no worker that serves it is ready."""

    code: ClassVar[str] = "not_ready"
    retryable: ClassVar[bool] = True
    retry_after_s: float
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class Aborted(ServingError):
    """Work began and was given up."""

    code: ClassVar[str] = "aborted"
    retryable: ClassVar[bool] = True
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class ClientGone(Aborted):
    """The caller closed its connection."""

    code: ClassVar[str] = "client_gone"
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class DeadlineExceeded(Aborted):
    """The deadline set at the edge passed."""

    code: ClassVar[str] = "deadline_exceeded"
    deadline_s: float
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class WorkerLost(Aborted):
    """The worker that held the request is gone."""

    code: ClassVar[str] = "worker_lost"
    worker_id: str
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class KvLost(Aborted):
    """The KV blocks of a handoff could not be read."""

    code: ClassVar[str] = "kv_lost"
    worker_id: str
    """Worker that held the blocks."""
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class KvCorrupt(Aborted):
    """The KV blocks of a handoff arrived changed; no token was computed from them."""

    code: ClassVar[str] = "kv_corrupt"
    worker_id: str
    """Worker that had computed the blocks."""
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class EngineFailed(Aborted):
    """An engine gave up a request or died."""

    code: ClassVar[str] = "engine_failed"
    worker_id: str
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class Fault(ServingError):
    """Our own fault."""

    code: ClassVar[str] = "fault"
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class TicketInvalid(Fault):
    """A ticket failed its check; no engine has seen it."""

    code: ClassVar[str] = "ticket_invalid"
    retryable: ClassVar[bool] = True
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class BusUnavailable(Fault):
    """NATS does not answer."""

    code: ClassVar[str] = "bus_unavailable"
    retryable: ClassVar[bool] = True
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class ConfigurationInvalid(Fault):
    """A setting is unknown or impossible; the process refuses to start."""

    code: ClassVar[str] = "configuration_invalid"
    key: str
    """Dotted name of the setting at fault."""
    __hash__ = ServingError.__hash__


@dataclass(kw_only=True)
class InternalFault(Fault):
    """A bug: something happened that the code rules out."""

    code: ClassVar[str] = "internal"
    __hash__ = ServingError.__hash__


LEAVES: tuple[type[ServingError], ...] = (
    InvalidRequest,
    ContextTooLong,
    BodyTooLarge,
    UnknownModel,
    Unsupported,
    RateLimited,
    Saturated,
    DeadlineUnmeetable,
    NotReady,
    ClientGone,
    DeadlineExceeded,
    WorkerLost,
    KvLost,
    KvCorrupt,
    EngineFailed,
    TicketInvalid,
    BusUnavailable,
    ConfigurationInvalid,
    InternalFault,
)
"""Every error that may be raised or cross a process."""
