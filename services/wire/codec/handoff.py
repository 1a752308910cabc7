"""The prefill queue's entries and the handoff on the wire.

Invariant: what is written comes back equal. A queue entry holds the small record only; the request with
the prompt is a message of its own, so that looking at thousands of waiting tasks stays cheap.
"""

from typing import NamedTuple

from services.domain.blocks import BlockHash
from services.domain.handoff import Handoff, Ticket
from services.domain.ids import EngineEpoch, GatewayId, RequestId, TaskId, TicketId, WorkerId
from services.domain.integrity import CHECKS_MAX, BlockCheck
from services.domain.slo import Slo
from services.domain.task import Claim, PrefixMark, TaskRecord
from services.wire.codec.fields import fault, identity, number, parse, positive, present, writing
from services.wire.codec.stream import delta_from_proto, delta_to_proto
from services.wire.generated.baton.internal.v1 import handoff_pb2 as pb


class QueueEntry(NamedTuple):
    """Value of a task's key in the queue."""

    record: TaskRecord
    claim: Claim | None
    attempts: int
    """Claims so far, the present one included."""


def record_to_proto(record: TaskRecord) -> pb.TaskRecord:
    """Write a task's record."""
    return pb.TaskRecord(
        task_id=record.task_id,
        gateway_id=record.gateway_id,
        model=record.model,
        priority=record.priority,
        prompt_tokens=record.prompt_tokens,
        mark_depths_blocks=[mark.depth_blocks for mark in record.marks],
        mark_hashes=[mark.block_hash for mark in record.marks],
        deadline_s=record.deadline_s,
        ttft_target_s=record.ttft_target_s,
        decode_s=record.decode_s,
        slo=None if record.slo is None else pb.Slo(ttft_s=record.slo.ttft_s, tpot_s=record.slo.tpot_s),
        preferred_worker_id=record.preferred_worker_id,
        preferred_overlap_blocks=record.preferred_overlap_blocks,
    )


def record_from_proto(message: pb.TaskRecord) -> TaskRecord:
    """Read a task's record.

    Raises:
        WireError: a field is missing or malformed.
    """
    preferred = message.preferred_worker_id if message.HasField("preferred_worker_id") else None
    deadline_s = message.deadline_s if message.HasField("deadline_s") else None
    return TaskRecord(
        task_id=TaskId(identity("TaskRecord.task_id", message.task_id)),
        gateway_id=GatewayId(identity("TaskRecord.gateway_id", message.gateway_id)),
        model=message.model,
        priority=message.priority,
        prompt_tokens=message.prompt_tokens,
        marks=_marks_from_proto(message),
        deadline_s=None if deadline_s is None else number("TaskRecord.deadline_s", deadline_s),
        ttft_target_s=number("TaskRecord.ttft_target_s", message.ttft_target_s),
        decode_s=number("TaskRecord.decode_s", message.decode_s),
        slo=_slo_from_proto(message.slo) if message.HasField("slo") else None,
        preferred_worker_id=None if preferred is None else WorkerId(preferred),
        preferred_overlap_blocks=message.preferred_overlap_blocks,
    )


def _slo_from_proto(message: pb.Slo) -> Slo:
    for name, value in (("Slo.ttft_s", message.ttft_s), ("Slo.tpot_s", message.tpot_s)):
        if not number(name, value) > 0.0:
            raise fault(name, f"must be above 0, is {value}")
    return Slo(ttft_s=message.ttft_s, tpot_s=message.tpot_s)


def _marks_from_proto(message: pb.TaskRecord) -> tuple[PrefixMark, ...]:
    depths, hashes = message.mark_depths_blocks, message.mark_hashes
    if len(depths) != len(hashes):
        raise fault("TaskRecord.mark_hashes", f"has {len(hashes)} hashes for {len(depths)} depths")
    return tuple(map(PrefixMark, depths, map(BlockHash, hashes)))


def encode_entry(record: TaskRecord, claim: Claim | None, attempts: int) -> bytes:
    """Write a queue entry.

    Raises:
        WireError: a value does not fit its field.
    """
    with writing("QueueEntry"):
        held = None if claim is None else pb.Claim(worker_id=claim.worker_id, attempt=claim.attempt)
        entry = pb.QueueEntry(record=record_to_proto(record), claim=held, attempts=attempts)
        return entry.SerializeToString()


def decode_entry(data: bytes) -> QueueEntry:
    """Read a queue entry.

    Raises:
        WireError: the bytes are no such message, or a field is missing or malformed.
    """
    message = parse(pb.QueueEntry, data)
    present("QueueEntry.record", message, "record")
    claim = None
    if message.HasField("claim"):
        worker_id = WorkerId(identity("Claim.worker_id", message.claim.worker_id))
        claim = Claim(worker_id=worker_id, attempt=message.claim.attempt)
    return QueueEntry(record=record_from_proto(message.record), claim=claim, attempts=message.attempts)


def ticket_to_proto(ticket: Ticket) -> pb.Ticket:
    """Write a ticket."""
    return pb.Ticket(
        ticket_id=ticket.ticket_id,
        request_id=ticket.request_id,
        prefill_worker_id=ticket.prefill_worker_id,
        epoch=ticket.epoch,
        digest=ticket.digest,
        prompt_tokens=ticket.prompt_tokens,
        block_size_tokens=ticket.block_size_tokens,
        block_count=ticket.block_count,
        kv_bytes=ticket.kv_bytes,
        lease_s=ticket.lease_s,
        compatibility=ticket.compatibility,
        connector=ticket.connector,
        checks=[pb.BlockCheck(block_index=c.block_index, digests=c.digests) for c in ticket.checks],
    )


def ticket_from_proto(message: pb.Ticket) -> Ticket:
    """Read a ticket; whether it may be used is for `check_ticket` to say.

    Raises:
        WireError: a field is missing or malformed.
    """
    return Ticket(
        ticket_id=TicketId(identity("Ticket.ticket_id", message.ticket_id)),
        request_id=RequestId(identity("Ticket.request_id", message.request_id)),
        prefill_worker_id=WorkerId(identity("Ticket.prefill_worker_id", message.prefill_worker_id)),
        epoch=EngineEpoch(identity("Ticket.epoch", message.epoch)),
        digest=message.digest,
        prompt_tokens=message.prompt_tokens,
        block_size_tokens=positive("Ticket.block_size_tokens", message.block_size_tokens),
        block_count=message.block_count,
        kv_bytes=message.kv_bytes,
        lease_s=number("Ticket.lease_s", message.lease_s),
        compatibility=message.compatibility,
        connector=message.connector,
        checks=_checks_from_proto(message),
    )


def _checks_from_proto(message: pb.Ticket) -> tuple[BlockCheck, ...]:
    if len(message.checks) > CHECKS_MAX:
        raise fault("Ticket.checks", f"has {len(message.checks)} entries, at most {CHECKS_MAX} are carried")
    return tuple(BlockCheck(block_index=c.block_index, digests=tuple(c.digests)) for c in message.checks)


def handoff_to_proto(handoff: Handoff) -> pb.Handoff:
    """Write a handoff."""
    return pb.Handoff(
        task_id=handoff.task_id,
        request_id=handoff.request_id,
        worker_id=handoff.worker_id,
        ticket=None if handoff.ticket is None else ticket_to_proto(handoff.ticket),
        first=delta_to_proto(handoff.first),
        first_is_exact=handoff.first_is_exact,
        waited_s=handoff.waited_s,
        prefill_s=handoff.prefill_s,
    )


def handoff_from_proto(message: pb.Handoff) -> Handoff:
    """Read a handoff.

    Raises:
        WireError: a field is missing or malformed.
    """
    present("Handoff.first", message, "first")
    return Handoff(
        task_id=TaskId(identity("Handoff.task_id", message.task_id)),
        request_id=RequestId(identity("Handoff.request_id", message.request_id)),
        worker_id=WorkerId(identity("Handoff.worker_id", message.worker_id)),
        ticket=ticket_from_proto(message.ticket) if message.HasField("ticket") else None,
        first=delta_from_proto(message.first),
        first_is_exact=message.first_is_exact,
        waited_s=number("Handoff.waited_s", message.waited_s),
        prefill_s=number("Handoff.prefill_s", message.prefill_s),
    )
