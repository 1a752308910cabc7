"""Messages between gateway and worker on the wire.

Invariant: what is written comes back equal; both unions are closed, a member that this version does not
know is refused. Not here: transport (`services.link`).
"""

from typing import assert_never

from services.domain.ids import EngineEpoch, GatewayId, RequestId, TaskId, TicketId, WorkerId
from services.domain.link import (
    Accepted,
    Cancel,
    Goodbye,
    HandoffAnswer,
    HandoffOffer,
    Hello,
    StartDecode,
    TaskFailed,
    TaskStarted,
    ToGateway,
    ToWorker,
    Welcome,
)
from services.domain.stream import StepFrame
from services.wire.codec.fields import identity, number, parse, present, unknown_choice, writing
from services.wire.codec.handoff import (
    handoff_from_proto,
    handoff_to_proto,
    ticket_from_proto,
    ticket_to_proto,
)
from services.wire.codec.request import request_from_proto, request_to_proto
from services.wire.codec.stream import delta_from_proto, delta_to_proto, fill_frame, frame_from_proto
from services.wire.generated.baton.internal.v1 import worker_pb2 as pb


def to_worker_to_proto(message: ToWorker) -> pb.ToWorker:
    """Write a message to a worker."""
    match message:
        case Hello():
            return pb.ToWorker(hello=pb.Hello(gateway_id=message.gateway_id))
        case StartDecode():
            return pb.ToWorker(start_decode=_start_to_proto(message))
        case Cancel():
            return pb.ToWorker(cancel=pb.Cancel(request_id=message.request_id))
        case HandoffAnswer():
            answer = pb.HandoffAnswer(
                task_id=message.task_id,
                request_id=message.request_id,
                ticket_id=message.ticket_id,
                taken=message.taken,
                pulled=message.pulled,
            )
            return pb.ToWorker(handoff_answer=answer)
        case _:
            assert_never(message)


def to_worker_from_proto(message: pb.ToWorker) -> ToWorker:
    """Read a message to a worker.

    Raises:
        WireError: it is of an unknown kind, or a field is missing or malformed.
    """
    match message.WhichOneof("message"):
        case "hello":
            return Hello(gateway_id=GatewayId(identity("Hello.gateway_id", message.hello.gateway_id)))
        case "start_decode":
            return _start_from_proto(message.start_decode)
        case "cancel":
            return Cancel(request_id=RequestId(identity("Cancel.request_id", message.cancel.request_id)))
        case "handoff_answer":
            return _answer_from_proto(message.handoff_answer)
        case None:
            raise unknown_choice("ToWorker.message")
        case kind:
            assert_never(kind)


def encode_to_worker(message: ToWorker) -> bytes:
    """Write the bytes of a message to a worker.

    Raises:
        WireError: a value does not fit its field.
    """
    with writing(type(message).__name__):
        return to_worker_to_proto(message).SerializeToString()


def decode_to_worker(data: bytes) -> ToWorker:
    """Read a message to a worker from bytes.

    Raises:
        WireError: they are no such message, or a field is missing or malformed.
    """
    return to_worker_from_proto(parse(pb.ToWorker, data))


def to_gateway_to_proto(message: ToGateway) -> pb.ToGateway:
    """Write a message to a gateway."""
    match message:
        case StepFrame():
            out = pb.ToGateway()
            fill_frame(out.step_frame, message)
            out.step_frame.SetInParent()
            return out
        case Welcome():
            return pb.ToGateway(welcome=pb.Welcome(worker_id=message.worker_id, epoch=message.epoch))
        case Accepted():
            return pb.ToGateway(accepted=pb.Accepted(request_id=message.request_id))
        case HandoffOffer():
            return pb.ToGateway(handoff_offer=pb.HandoffOffer(handoff=handoff_to_proto(message.handoff)))
        case TaskStarted():
            started = pb.TaskStarted(
                task_id=message.task_id,
                request_id=message.request_id,
                attempt=message.attempt,
                waited_s=message.waited_s,
            )
            return pb.ToGateway(task_started=started)
        case TaskFailed():
            final = delta_to_proto(message.final)
            failed = pb.TaskFailed(task_id=message.task_id, request_id=message.request_id, final=final)
            return pb.ToGateway(task_failed=failed)
        case Goodbye():
            return pb.ToGateway(goodbye=pb.Goodbye())
        case _:
            assert_never(message)


def to_gateway_from_proto(message: pb.ToGateway) -> ToGateway:
    """Read a message to a gateway.

    Raises:
        WireError: it is of an unknown kind, or a field is missing or malformed.
    """
    match message.WhichOneof("message"):
        case "step_frame":
            return frame_from_proto(message.step_frame)
        case "welcome":
            return Welcome(
                worker_id=WorkerId(identity("Welcome.worker_id", message.welcome.worker_id)),
                epoch=EngineEpoch(identity("Welcome.epoch", message.welcome.epoch)),
            )
        case "accepted":
            accepted = message.accepted
            return Accepted(request_id=RequestId(identity("Accepted.request_id", accepted.request_id)))
        case "handoff_offer":
            present("HandoffOffer.handoff", message.handoff_offer, "handoff")
            return HandoffOffer(handoff=handoff_from_proto(message.handoff_offer.handoff))
        case "task_started":
            return _started_from_proto(message.task_started)
        case "task_failed":
            return _failed_from_proto(message.task_failed)
        case "goodbye":
            return Goodbye()
        case None:
            raise unknown_choice("ToGateway.message")
        case kind:
            assert_never(kind)


def encode_to_gateway(message: ToGateway) -> bytes:
    """Write the bytes of a message to a gateway.

    Raises:
        WireError: a value does not fit its field.
    """
    with writing(type(message).__name__):
        return to_gateway_to_proto(message).SerializeToString()


def decode_to_gateway(data: bytes) -> ToGateway:
    """Read a message to a gateway from bytes.

    Raises:
        WireError: they are no such message, or a field is missing or malformed.
    """
    return to_gateway_from_proto(parse(pb.ToGateway, data))


def _start_to_proto(start: StartDecode) -> pb.StartDecode:
    return pb.StartDecode(
        request=request_to_proto(start.request),
        ticket=None if start.ticket is None else ticket_to_proto(start.ticket),
        emitted_token_ids=start.emitted_token_ids,
        deadline_s=start.deadline_s,
    )


def _start_from_proto(message: pb.StartDecode) -> StartDecode:
    present("StartDecode.request", message, "request")
    deadline_s = message.deadline_s if message.HasField("deadline_s") else None
    return StartDecode(
        request=request_from_proto(message.request),
        ticket=ticket_from_proto(message.ticket) if message.HasField("ticket") else None,
        emitted_token_ids=tuple(message.emitted_token_ids),
        deadline_s=None if deadline_s is None else number("StartDecode.deadline_s", deadline_s),
    )


def _answer_from_proto(message: pb.HandoffAnswer) -> HandoffAnswer:
    return HandoffAnswer(
        task_id=TaskId(identity("HandoffAnswer.task_id", message.task_id)),
        request_id=RequestId(identity("HandoffAnswer.request_id", message.request_id)),
        ticket_id=TicketId(message.ticket_id) if message.HasField("ticket_id") else None,
        taken=message.taken,
        pulled=message.pulled,
    )


def _started_from_proto(message: pb.TaskStarted) -> TaskStarted:
    return TaskStarted(
        task_id=TaskId(identity("TaskStarted.task_id", message.task_id)),
        request_id=RequestId(identity("TaskStarted.request_id", message.request_id)),
        attempt=message.attempt,
        waited_s=number("TaskStarted.waited_s", message.waited_s),
    )


def _failed_from_proto(message: pb.TaskFailed) -> TaskFailed:
    present("TaskFailed.final", message, "final")
    return TaskFailed(
        task_id=TaskId(identity("TaskFailed.task_id", message.task_id)),
        request_id=RequestId(identity("TaskFailed.request_id", message.request_id)),
        final=delta_from_proto(message.final),
    )
