"""A client's call after all checks: what to generate, in terms of the inner port.

Goes out of `intake`, into `sequences`. Invariant: everything in it is valid for its model.
"""

from dataclasses import dataclass

from services.domain.errors import InvalidRequest
from services.domain.request import InferenceRequest
from services.gateway.edge.assets import ModelAssets
from services.gateway.port import ServeOptions

_ID_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-")
_ID_LENGTH_MAX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a caller says beside the body."""

    request_id: str
    arrived_s: float
    """When the call came, by the gateway's clock; its deadline counts from here."""
    deadline_s: float | None
    """Time the caller would wait; None takes the gateway's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, tokenized and fanned out.

    Attributes:
        request_id: what the caller can ask about later.
        model: name as the caller gave it.
        assets: of that model.
        requests: shape [prompts * choices_per_prompt]; the choices of one prompt are neighbours.
        choices_per_prompt: `n`.
        options: how long to try and where to prefill.
        stops: strings that end the output.
        reports_tokens: whether each token is told beside the text (log-probabilities, gRPC).
    """

    request_id: str
    model: str
    assets: ModelAssets
    requests: tuple[InferenceRequest, ...]
    choices_per_prompt: int
    options: ServeOptions
    stops: tuple[str, ...]
    reports_tokens: bool

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once however many choices it has."""
        return sum(r.prompt_tokens for r in self.requests[:: self.choices_per_prompt])


def check_request_id(text: str) -> str:
    """Accept a caller's own request id.

    Raises:
        InvalidRequest: it is empty, too long, or has characters that do not travel everywhere.
    """
    if not 0 < len(text) <= _ID_LENGTH_MAX or not _ID_CHARS.issuperset(text):
        raise InvalidRequest(
            message=f"x-request-id must be 1 to {_ID_LENGTH_MAX} letters, digits or . _ : -",
            param="x-request-id",
        )
    return text


def check_deadline_s(text: str, max_s: float) -> float:
    """Accept a caller's own deadline, in seconds.

    Raises:
        InvalidRequest: it is no number, not positive, or longer than allowed.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= max_s:
        raise InvalidRequest(
            message=f"x-request-timeout-s must be a number of seconds, above 0 and at most {max_s:g}",
            param="x-request-timeout-s",
        )
    return value
