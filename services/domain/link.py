"""What a gateway and a worker say to each other on their one multiplexed stream.

Comes in: decisions of the gateway, results of the worker. Goes out: messages grouped by receiver.
Invariant: a gateway speaks of a request to a worker only after `StartDecode` or a claimed task named
it; after `Cancel` or the last delta neither side speaks of it again.
Not here: transport (`services.link`), encoding (`services.wire`).
"""

from dataclasses import dataclass

from services.domain.handoff import Handoff, Ticket
from services.domain.ids import EngineEpoch, GatewayId, RequestId, TaskId, TicketId, WorkerId
from services.domain.request import InferenceRequest
from services.domain.stream import Delta, StepFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First message of a gateway on a new link."""

    gateway_id: GatewayId


@dataclass(frozen=True, slots=True, kw_only=True)
class StartDecode:
    """Write the tokens of a request.

    Attributes:
        request: the original request; its prompt is what the client sent.
        ticket: where the prompt's KV is; None asks this worker to prefill by itself.
        emitted_token_ids: output tokens that exist already (an early first token, or the tokens of
            a request that migrates); generation continues behind them and does not repeat them.
        deadline_s: time left; None waits without limit.
    """

    request: InferenceRequest
    ticket: Ticket | None
    emitted_token_ids: tuple[int, ...]
    deadline_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Stop a request and free all it holds; unknown ids are ignored."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffAnswer:
    """Tells a prefill worker what became of its handoff."""

    task_id: TaskId
    request_id: RequestId
    ticket_id: TicketId | None
    taken: bool
    """True: a decode worker accepted it, or nobody needs it any more; the task is complete.
    False: nobody read the blocks; the prefill worker frees them, the task is complete as well,
    because its gateway goes on another way."""
    pulled: bool
    """Whether a decode worker reads the blocks, so that they end by themselves."""


ToWorker = Hello | StartDecode | Cancel | HandoffAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """First message of a worker on a new link."""

    worker_id: WorkerId
    epoch: EngineEpoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The worker queued a `StartDecode` in its engine; deltas follow."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffOffer:
    """A prefill worker finished a task and waits for a `HandoffAnswer`."""

    handoff: Handoff


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted:
    """A prefill worker claimed a task of this gateway."""

    task_id: TaskId
    request_id: RequestId
    attempt: int
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed:
    """A prefill worker gave a task up for good: it is out of the queue, the gateway goes on without."""

    task_id: TaskId
    request_id: RequestId
    final: Delta
    """Its `error` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodbye:
    """The worker drains: nothing new may be sent, what runs goes on."""


ToGateway = Welcome | Accepted | StepFrame | HandoffOffer | TaskStarted | TaskFailed | Goodbye
