"""The one table: each leaf of the error tree to its HTTP status, OpenAI type and gRPC code.

Comes in: a `ServingError`. Goes out: a status and a body that the `openai` client understands.
Invariant: the table is total over `services.domain.errors.LEAVES`.
"""

import math
from dataclasses import dataclass

import grpc
import msgspec

from services.domain import errors
from services.domain.errors import ServingError


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """How one leaf is told to clients."""

    http_status: int
    openai_type: str
    grpc_code: grpc.StatusCode


_INVALID = "invalid_request_error"
_SERVER = "server_error"
_LIMIT = "rate_limit_error"
_Code = grpc.StatusCode

TABLE: dict[type[ServingError], ErrorRow] = {
    errors.InvalidRequest: ErrorRow(400, _INVALID, _Code.INVALID_ARGUMENT),
    errors.ContextTooLong: ErrorRow(400, _INVALID, _Code.INVALID_ARGUMENT),
    errors.BodyTooLarge: ErrorRow(413, _INVALID, _Code.RESOURCE_EXHAUSTED),
    errors.UnknownModel: ErrorRow(404, _INVALID, _Code.NOT_FOUND),
    errors.Unsupported: ErrorRow(400, _INVALID, _Code.UNIMPLEMENTED),
    errors.RateLimited: ErrorRow(429, _LIMIT, _Code.RESOURCE_EXHAUSTED),
    errors.Saturated: ErrorRow(429, _LIMIT, _Code.RESOURCE_EXHAUSTED),
    errors.DeadlineUnmeetable: ErrorRow(503, _SERVER, _Code.DEADLINE_EXCEEDED),
    errors.NotReady: ErrorRow(503, _SERVER, _Code.UNAVAILABLE),
    errors.ClientGone: ErrorRow(499, _INVALID, _Code.CANCELLED),
    errors.DeadlineExceeded: ErrorRow(504, _SERVER, _Code.DEADLINE_EXCEEDED),
    errors.WorkerLost: ErrorRow(503, _SERVER, _Code.UNAVAILABLE),
    errors.KvLost: ErrorRow(503, _SERVER, _Code.UNAVAILABLE),
    errors.KvCorrupt: ErrorRow(503, _SERVER, _Code.UNAVAILABLE),
    errors.EngineFailed: ErrorRow(503, _SERVER, _Code.UNAVAILABLE),
    errors.TicketInvalid: ErrorRow(500, _SERVER, _Code.INTERNAL),
    errors.BusUnavailable: ErrorRow(503, _SERVER, _Code.UNAVAILABLE),
    errors.ConfigurationInvalid: ErrorRow(500, _SERVER, _Code.FAILED_PRECONDITION),
    errors.InternalFault: ErrorRow(500, _SERVER, _Code.INTERNAL),
}
"""499 is nginx's "client closed request": nobody reads it, the log does."""


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """Body of every answer that is not a success."""

    error: ErrorDetail


def row_of(error: ServingError) -> ErrorRow:
    """Find the row of an error by the most special class that has one."""
    return next((TABLE[c] for c in type(error).__mro__ if c in TABLE), TABLE[errors.InternalFault])


def render_body(*, message: str, kind: str, param: str | None, code: str | None) -> bytes:
    """Render an OpenAI error body."""
    return msgspec.json.encode(
        ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))
    )


def render_error(error: ServingError) -> bytes:
    """Render the OpenAI error body of an error of the tree."""
    param: str | None = None
    match error:
        case errors.InvalidRequest() | errors.Unsupported():
            param = error.param
        case errors.UnknownModel():
            param = "model"
        case errors.ContextTooLong():
            param = "prompt"
        case _:
            pass
    return render_body(message=error.message, kind=row_of(error).openai_type, param=param, code=error.code)


def retry_after_s(error: ServingError) -> int | None:
    """Whole seconds for the `Retry-After` header, at least 1; None when the error promises nothing."""
    match error:
        case (
            errors.Saturated(retry_after_s=float() | int() as after_s)
            | errors.RateLimited(retry_after_s=float() | int() as after_s)
            | errors.NotReady(retry_after_s=float() | int() as after_s)
            | errors.DeadlineUnmeetable(retry_after_s=float() | int() as after_s)
        ):
            return max(1, math.ceil(after_s))
        case _:
            return None
