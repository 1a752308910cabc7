"""A worker's status and its orders on the wire: what it is, how fast, how busy; what it is to do.

Invariant: what is written comes back equal; a status carries no time.
"""

from collections.abc import Iterable

from services.domain.ids import EngineEpoch, WorkerId
from services.domain.performance import PerformanceModel
from services.domain.worker import Lifecycle, Phase, RoleOrder, WorkerLimits, WorkerLoad, WorkerStatus
from services.wire.codec.fields import identity, known, number, parse, positive, present, writing
from services.wire.generated.baton.internal.v1 import worker_pb2 as pb

_PHASE_TO_PROTO = {Phase.PREFILL: pb.PHASE_PREFILL, Phase.DECODE: pb.PHASE_DECODE}
_PHASE_FROM_PROTO = {int(v): k for k, v in _PHASE_TO_PROTO.items()}
_LIFECYCLE_TO_PROTO = {
    Lifecycle.STARTING: pb.LIFECYCLE_STARTING,
    Lifecycle.READY: pb.LIFECYCLE_READY,
    Lifecycle.DRAINING: pb.LIFECYCLE_DRAINING,
    Lifecycle.STOPPED: pb.LIFECYCLE_STOPPED,
}
_LIFECYCLE_FROM_PROTO = {int(v): k for k, v in _LIFECYCLE_TO_PROTO.items()}


def limits_to_proto(limits: WorkerLimits) -> pb.WorkerLimits:
    """Write an engine's fixed facts."""
    return pb.WorkerLimits(
        block_size_tokens=limits.block_size_tokens,
        kv_blocks=limits.kv_blocks,
        kv_bytes_per_token=limits.kv_bytes_per_token,
        context_tokens_max=limits.context_tokens_max,
        sequences_max=limits.sequences_max,
        step_tokens_max=limits.step_tokens_max,
        compatibility=limits.compatibility,
    )


def limits_from_proto(message: pb.WorkerLimits) -> WorkerLimits:
    """Read an engine's fixed facts.

    Raises:
        WireError: a number that predictions divide by is missing.
    """
    return WorkerLimits(
        block_size_tokens=positive("WorkerLimits.block_size_tokens", message.block_size_tokens),
        kv_blocks=positive("WorkerLimits.kv_blocks", message.kv_blocks),
        kv_bytes_per_token=message.kv_bytes_per_token,
        context_tokens_max=positive("WorkerLimits.context_tokens_max", message.context_tokens_max),
        sequences_max=positive("WorkerLimits.sequences_max", message.sequences_max),
        step_tokens_max=positive("WorkerLimits.step_tokens_max", message.step_tokens_max),
        compatibility=message.compatibility,
    )


def load_to_proto(load: WorkerLoad) -> pb.WorkerLoad:
    """Write what an engine is busy with."""
    return pb.WorkerLoad(
        running_count=load.running_count,
        running_context_tokens=load.running_context_tokens,
        waiting_count=load.waiting_count,
        waiting_prefill_tokens=load.waiting_prefill_tokens,
        kv_used_blocks=load.kv_used_blocks,
        leased_blocks=load.leased_blocks,
    )


def load_from_proto(message: pb.WorkerLoad) -> WorkerLoad:
    """Read what an engine is busy with."""
    return WorkerLoad(
        running_count=message.running_count,
        running_context_tokens=message.running_context_tokens,
        waiting_count=message.waiting_count,
        waiting_prefill_tokens=message.waiting_prefill_tokens,
        kv_used_blocks=message.kv_used_blocks,
        leased_blocks=message.leased_blocks,
    )


def performance_to_proto(model: PerformanceModel) -> pb.PerformanceModel:
    """Write how fast an engine is."""
    return pb.PerformanceModel(
        prefill_step_s=model.prefill_step_s,
        prefill_token_s=model.prefill_token_s,
        prefill_attention_s=model.prefill_attention_s,
        decode_step_s=model.decode_step_s,
        decode_sequence_s=model.decode_sequence_s,
        decode_context_token_s=model.decode_context_token_s,
        handoff_s=model.handoff_s,
        transfer_bytes_per_s=model.transfer_bytes_per_s,
        prefill_square_s=model.prefill_square_s,
        decode_context_square_s=model.decode_context_square_s,
        decode_least_s=model.decode_least_s,
    )


def performance_from_proto(message: pb.PerformanceModel) -> PerformanceModel:
    """Read how fast an engine is.

    Raises:
        WireError: a number is none, or the transfer rate is missing.
    """
    name = "PerformanceModel."
    return PerformanceModel(
        prefill_step_s=number(name + "prefill_step_s", message.prefill_step_s),
        prefill_token_s=number(name + "prefill_token_s", message.prefill_token_s),
        prefill_attention_s=number(name + "prefill_attention_s", message.prefill_attention_s),
        decode_step_s=number(name + "decode_step_s", message.decode_step_s),
        decode_sequence_s=number(name + "decode_sequence_s", message.decode_sequence_s),
        decode_context_token_s=number(name + "decode_context_token_s", message.decode_context_token_s),
        handoff_s=number(name + "handoff_s", message.handoff_s),
        transfer_bytes_per_s=positive(name + "transfer_bytes_per_s", message.transfer_bytes_per_s),
        prefill_square_s=number(name + "prefill_square_s", message.prefill_square_s),
        decode_context_square_s=number(name + "decode_context_square_s", message.decode_context_square_s),
        decode_least_s=number(name + "decode_least_s", message.decode_least_s),
    )


def _phases(field: str, written: Iterable[int]) -> tuple[Phase, ...]:
    return tuple(known(field, _PHASE_FROM_PROTO, phase) for phase in written)


def encode_status(status: WorkerStatus) -> bytes:
    """Write a worker's status.

    Raises:
        WireError: a value does not fit its field.
    """
    with writing("WorkerStatus"):
        message = pb.WorkerStatus(
            worker_id=status.worker_id,
            epoch=status.epoch,
            sequence=status.sequence,
            model=status.model,
            phases=[_PHASE_TO_PROTO[p] for p in status.phases],
            lifecycle=_LIFECYCLE_TO_PROTO[status.lifecycle],
            address=status.address,
            limits=limits_to_proto(status.limits),
            load=load_to_proto(status.load),
            performance=performance_to_proto(status.performance),
            engine_kind=status.engine_kind,
            kv_sequence=status.kv_sequence,
            suspects=status.suspects,
        )
        return message.SerializeToString()


def decode_status(data: bytes) -> WorkerStatus:
    """Read a worker's status.

    Raises:
        WireError: the bytes are no such message, or a field is missing or malformed.
    """
    message = parse(pb.WorkerStatus, data)
    for name in ("limits", "load", "performance"):
        present(f"WorkerStatus.{name}", message, name)
    return WorkerStatus(
        worker_id=WorkerId(identity("WorkerStatus.worker_id", message.worker_id)),
        epoch=EngineEpoch(identity("WorkerStatus.epoch", message.epoch)),
        sequence=message.sequence,
        model=message.model,
        phases=_phases("WorkerStatus.phases", message.phases),
        lifecycle=known("WorkerStatus.lifecycle", _LIFECYCLE_FROM_PROTO, message.lifecycle),
        address=message.address,
        limits=limits_from_proto(message.limits),
        load=load_from_proto(message.load),
        performance=performance_from_proto(message.performance),
        engine_kind=message.engine_kind,
        kv_sequence=message.kv_sequence,
        suspects=tuple(map(EngineEpoch, message.suspects)),
    )


def encode_role_order(order: RoleOrder) -> bytes:
    """Write an order.

    Raises:
        WireError: a value does not fit its field.
    """
    with writing("RoleOrder"):
        message = pb.RoleOrder(
            worker_id=order.worker_id,
            epoch=order.epoch,
            phases=[_PHASE_TO_PROTO[phase] for phase in order.phases],
        )
        return message.SerializeToString()


def decode_role_order(data: bytes) -> RoleOrder:
    """Read an order.

    Raises:
        WireError: the bytes are no such message, or a field is missing or malformed.
    """
    message = parse(pb.RoleOrder, data)
    positive("RoleOrder.phases", len(message.phases))
    return RoleOrder(
        worker_id=WorkerId(identity("RoleOrder.worker_id", message.worker_id)),
        epoch=EngineEpoch(identity("RoleOrder.epoch", message.epoch)),
        phases=_phases("RoleOrder.phases", message.phases),
    )
