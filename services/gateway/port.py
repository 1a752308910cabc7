"""What the edge asks of whoever serves requests behind it.

Comes in: checked, tokenized requests. Goes out: deltas, records and the state of the cluster.
Invariant: a stream of deltas that began ends in exactly one delta with `finish`, or in an exception of
the error tree; closing it early cancels the request on every hop.
Not here: HTTP, gRPC, text (`services.gateway.edge`).
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from services.domain.handoff import Handoff
from services.domain.ids import RequestId
from services.domain.placement import DecodePlacement, PathPreference, Placement
from services.domain.request import InferenceRequest
from services.domain.stream import Delta, FinishReason
from services.domain.timeline import Timeline
from services.domain.worker import WorkerStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What a caller may ask beside the request itself."""

    deadline_s: float | None
    """Time left until the answer is worth nothing; None takes the gateway's default."""
    preference: PathPreference = PathPreference.AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that the fleet serves."""

    name: str
    context_tokens_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """All that is known of one request, kept for `baton explain`.

    Attributes:
        request_id: whose.
        model: name.
        prompt_tokens: ISL.
        output_tokens: OSL so far.
        cached_tokens: prompt tokens whose KV was reused; None until known.
        placement: the routing decision; None until placed.
        fallbacks: why earlier ways were left, in order, as sentences.
        handoff: what prefill gave away; None when prefill was local.
        decode_placement: which decode worker took it; None when prefill was local.
        first_token_early: whether the first token was shown before decode began.
        timeline: moments.
        finish: how it ended; None while it runs.
        error: code and message, when it failed.
        accepted_s: by the gateway's own clock, so only differences between its records mean anything.
        prefix_ids: equal leading ids = equal beginnings; see `services.gateway.records.prefix_ids`.
    """

    request_id: RequestId
    model: str
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None
    placement: Placement | None
    fallbacks: tuple[str, ...]
    handoff: Handoff | None
    decode_placement: DecodePlacement | None
    first_token_early: bool
    timeline: Timeline
    finish: FinishReason | None
    error: tuple[str, str] | None
    accepted_s: float = 0.0
    prefix_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """The cluster as this gateway sees it."""

    workers: tuple[WorkerStatus, ...]
    queue_waiting_count: int
    """Tasks in the prefill queue, claimed or not."""
    active_count: int
    """Requests of this gateway that have not ended."""
    bus_connected: bool
    waiting_count: int = 0
    """Requests of this gateway that wait until a decode worker has room."""


class Serving(Protocol):
    """Whoever serves requests behind the edge."""

    def models(self) -> tuple[ServedModel, ...]:
        """Models that at least one known worker serves."""
        ...

    def ready(self) -> str | None:
        """None when requests can be served now, else why not, for a person."""
        ...

    def generate(self, request: InferenceRequest, options: ServeOptions) -> AsyncGenerator[Delta, None]:
        """Serve a request.

        The iterator's first step raises when the request is refused; an iterator that gave a delta
        ends with one that carries `finish` (ERROR included). Closing it cancels the request.

        Raises:
            Rejected: nothing began.
            ServingError: it began and failed before the first token.
        """
        ...

    def record(self, request_id: RequestId) -> RequestRecord | None:
        """What is known of a request; None when it was never here or was forgotten since."""
        ...

    def recent(self) -> tuple[RequestRecord, ...]:
        """Records still kept, newest first."""
        ...

    def cluster(self) -> ClusterState:
        """The cluster as this gateway sees it."""
        ...
