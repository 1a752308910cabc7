"""The codec: domain values to protobuf and back, total both ways.

Comes in: domain values, or messages and bytes of a peer. Goes out: messages and bytes, or domain values;
`encode_x` and `decode_x` deal in bytes, `x_to_proto` and `x_from_proto` in messages.
Invariant: what one version writes it reads back equal; nothing but `WireError` is raised, whatever the
bytes. Not here: transport, subjects.
"""

from services.wire.codec.blocks import (
    CHUNK_HASHES_MAX,
    decode_kv_batch,
    decode_snapshot,
    encode_kv_batch,
    encode_snapshot,
)
from services.wire.codec.failure import error_from_proto, error_to_proto
from services.wire.codec.fields import WireError
from services.wire.codec.handoff import (
    QueueEntry,
    decode_entry,
    encode_entry,
    handoff_from_proto,
    handoff_to_proto,
    record_from_proto,
    record_to_proto,
    ticket_from_proto,
    ticket_to_proto,
)
from services.wire.codec.link import (
    decode_to_gateway,
    decode_to_worker,
    encode_to_gateway,
    encode_to_worker,
    to_gateway_from_proto,
    to_gateway_to_proto,
    to_worker_from_proto,
    to_worker_to_proto,
)
from services.wire.codec.request import (
    decode_request,
    encode_request,
    request_from_proto,
    request_to_proto,
    sampling_from_proto,
    sampling_to_proto,
    scope_from_proto,
    scope_to_proto,
)
from services.wire.codec.router import (
    decode_placement_from_proto,
    decode_placement_to_proto,
    decode_query_from_proto,
    decode_query_to_proto,
    place_decode_response_from_proto,
    place_decode_response_to_proto,
    place_response_from_proto,
    place_response_to_proto,
    placement_from_proto,
    placement_query_from_proto,
    placement_query_to_proto,
    placement_to_proto,
)
from services.wire.codec.stream import delta_from_proto, delta_to_proto
from services.wire.codec.worker import decode_role_order, decode_status, encode_role_order, encode_status

__all__ = [
    "CHUNK_HASHES_MAX",
    "QueueEntry",
    "WireError",
    "decode_entry",
    "decode_kv_batch",
    "decode_placement_from_proto",
    "decode_placement_to_proto",
    "decode_query_from_proto",
    "decode_query_to_proto",
    "decode_request",
    "decode_role_order",
    "decode_snapshot",
    "decode_status",
    "decode_to_gateway",
    "decode_to_worker",
    "delta_from_proto",
    "delta_to_proto",
    "encode_entry",
    "encode_kv_batch",
    "encode_request",
    "encode_role_order",
    "encode_snapshot",
    "encode_status",
    "encode_to_gateway",
    "encode_to_worker",
    "error_from_proto",
    "error_to_proto",
    "handoff_from_proto",
    "handoff_to_proto",
    "place_decode_response_from_proto",
    "place_decode_response_to_proto",
    "place_response_from_proto",
    "place_response_to_proto",
    "placement_from_proto",
    "placement_query_from_proto",
    "placement_query_to_proto",
    "placement_to_proto",
    "record_from_proto",
    "record_to_proto",
    "request_from_proto",
    "request_to_proto",
    "sampling_from_proto",
    "sampling_to_proto",
    "scope_from_proto",
    "scope_to_proto",
    "ticket_from_proto",
    "ticket_to_proto",
    "to_gateway_from_proto",
    "to_gateway_to_proto",
    "to_worker_from_proto",
    "to_worker_to_proto",
]
