"""Routing questions and decisions on the wire, for a router that stands alone.

Invariant: a question comes back equal, a decision with every candidate's numbers, or as the error that
refused it. Not here: the decision itself (`services.router`).
"""

from services.domain.blocks import BlockHash
from services.domain.errors import ServingError
from services.domain.ids import RequestId, TaskId, WorkerId
from services.domain.placement import (
    Candidate,
    DecodeCandidate,
    DecodePlacement,
    DecodeQuery,
    Path,
    PathPreference,
    Placement,
    PlacementQuery,
)
from services.domain.slo import WHOLE, Margins
from services.wire.codec.failure import error_from_proto, error_to_proto
from services.wire.codec.fields import (
    identity,
    known,
    number,
    positive,
    present,
    share,
    unknown_choice,
    writing,
)
from services.wire.codec.request import scope_from_proto, scope_to_proto
from services.wire.generated.baton.internal.v1 import router_pb2 as pb

_PATH_TO_PROTO = {Path.LOCAL: pb.PATH_LOCAL, Path.REMOTE: pb.PATH_REMOTE}
_PATH_FROM_PROTO = {int(v): k for k, v in _PATH_TO_PROTO.items()}
_PREFERENCE_TO_PROTO = {
    PathPreference.AUTO: pb.PATH_UNSPECIFIED,
    PathPreference.LOCAL: pb.PATH_LOCAL,
    PathPreference.REMOTE: pb.PATH_REMOTE,
}
_PREFERENCE_FROM_PROTO = {int(v): k for k, v in _PREFERENCE_TO_PROTO.items()}


def placement_query_to_proto(query: PlacementQuery) -> pb.PlaceRequest:
    """Write a question for a placement.

    Raises:
        WireError: a value does not fit its field.
    """
    with writing("PlaceRequest"):
        return pb.PlaceRequest(
            request_id=query.request_id,
            scope=scope_to_proto(query.scope),
            prompt_tokens=query.prompt_tokens,
            block_hashes=query.block_hashes,
            output_tokens_max=query.output_tokens_max,
            output_tokens_expected=query.output_tokens_expected,
            priority=query.priority,
            deadline_s=query.deadline_s,
            begun=query.begun,
            waited_s=query.waited_s,
            margins=None if query.margins == WHOLE else _margins_to_proto(query.margins),
            preference=_PREFERENCE_TO_PROTO[query.preference],
            avoid_worker_ids=query.avoid_worker_ids,
        )


def placement_query_from_proto(message: pb.PlaceRequest) -> PlacementQuery:
    """Read a question for a placement.

    Raises:
        WireError: a field is missing or malformed.
    """
    present("PlaceRequest.scope", message, "scope")
    return PlacementQuery(
        request_id=RequestId(identity("PlaceRequest.request_id", message.request_id)),
        scope=scope_from_proto(message.scope),
        prompt_tokens=positive("PlaceRequest.prompt_tokens", message.prompt_tokens),
        block_hashes=tuple(map(BlockHash, message.block_hashes)),
        output_tokens_max=positive("PlaceRequest.output_tokens_max", message.output_tokens_max),
        output_tokens_expected=_expected("PlaceRequest", message),
        priority=message.priority,
        deadline_s=number("PlaceRequest.deadline_s", message.deadline_s)
        if message.HasField("deadline_s")
        else None,
        begun=message.begun,
        waited_s=number("PlaceRequest.waited_s", message.waited_s),
        margins=_margins("PlaceRequest", message) or WHOLE,
        preference=known("PlaceRequest.preference", _PREFERENCE_FROM_PROTO, message.preference),
        avoid_worker_ids=tuple(map(WorkerId, message.avoid_worker_ids)),
    )


def decode_query_to_proto(query: DecodeQuery) -> pb.PlaceDecodeRequest:
    """Write a question for a decode worker.

    Raises:
        WireError: a value does not fit its field.
    """
    with writing("PlaceDecodeRequest"):
        return pb.PlaceDecodeRequest(
            request_id=query.request_id,
            scope=scope_to_proto(query.scope),
            context_tokens=query.context_tokens,
            output_tokens_max=query.output_tokens_max,
            output_tokens_expected=query.output_tokens_expected,
            compatibility=query.compatibility,
            avoid_worker_ids=query.avoid_worker_ids,
            holder_id=query.holder_id,
            waited_s=query.waited_s,
            task_id=query.task_id,
        )


def decode_query_from_proto(message: pb.PlaceDecodeRequest) -> DecodeQuery:
    """Read a question for a decode worker.

    Raises:
        WireError: a field is missing or malformed.
    """
    present("PlaceDecodeRequest.scope", message, "scope")
    return DecodeQuery(
        request_id=RequestId(identity("PlaceDecodeRequest.request_id", message.request_id)),
        scope=scope_from_proto(message.scope),
        context_tokens=message.context_tokens,
        output_tokens_max=positive("PlaceDecodeRequest.output_tokens_max", message.output_tokens_max),
        output_tokens_expected=_expected("PlaceDecodeRequest", message),
        compatibility=message.compatibility,
        avoid_worker_ids=tuple(map(WorkerId, message.avoid_worker_ids)),
        holder_id=WorkerId(message.holder_id) if message.HasField("holder_id") else None,
        waited_s=message.waited_s if message.HasField("waited_s") else None,
        task_id=TaskId(message.task_id) if message.HasField("task_id") else None,
    )


def _expected(name: str, message: pb.PlaceRequest | pb.PlaceDecodeRequest) -> int | None:
    if not message.HasField("output_tokens_expected"):
        return None
    return positive(f"{name}.output_tokens_expected", message.output_tokens_expected)


def _margins_to_proto(margins: Margins) -> pb.Margins:
    return pb.Margins(ttft_frac=margins.ttft_frac, tpot_frac=margins.tpot_frac)


def _margins(name: str, message: pb.PlaceRequest | pb.Placement) -> Margins | None:
    if not message.HasField("margins"):
        return None
    return Margins(
        ttft_frac=share(f"{name}.margins.ttft_frac", message.margins.ttft_frac),
        tpot_frac=share(f"{name}.margins.tpot_frac", message.margins.tpot_frac),
    )


def candidate_to_proto(candidate: Candidate) -> pb.Candidate:
    """Write one way to serve a request."""
    return pb.Candidate(
        path=_PATH_TO_PROTO[candidate.path],
        worker_id=candidate.worker_id,
        overlap_blocks=candidate.overlap_blocks,
        uncached_tokens=candidate.uncached_tokens,
        wait_s=candidate.wait_s,
        prefill_s=candidate.prefill_s,
        transfer_s=candidate.transfer_s,
        ttft_s=candidate.ttft_s,
        tpot_s=candidate.tpot_s,
        harm_s=candidate.harm_s,
        cost_s=candidate.cost_s,
        excluded=candidate.excluded,
    )


def candidate_from_proto(message: pb.Candidate) -> Candidate:
    """Read one way to serve a request.

    Raises:
        WireError: a field is missing or malformed.
    """
    return Candidate(
        path=known("Candidate.path", _PATH_FROM_PROTO, message.path),
        worker_id=WorkerId(identity("Candidate.worker_id", message.worker_id)),
        overlap_blocks=message.overlap_blocks,
        uncached_tokens=message.uncached_tokens,
        wait_s=number("Candidate.wait_s", message.wait_s),
        prefill_s=number("Candidate.prefill_s", message.prefill_s),
        transfer_s=number("Candidate.transfer_s", message.transfer_s),
        ttft_s=number("Candidate.ttft_s", message.ttft_s),
        tpot_s=number("Candidate.tpot_s", message.tpot_s),
        harm_s=number("Candidate.harm_s", message.harm_s),
        cost_s=number("Candidate.cost_s", message.cost_s),
        excluded=message.excluded if message.HasField("excluded") else None,
    )


def placement_to_proto(placement: Placement) -> pb.Placement:
    """Write a decision."""
    return pb.Placement(
        request_id=placement.request_id,
        path=_PATH_TO_PROTO[placement.path],
        worker_id=placement.worker_id,
        overlap_blocks=placement.overlap_blocks,
        predicted_ttft_s=placement.predicted_ttft_s,
        predicted_tpot_s=placement.predicted_tpot_s,
        predicted_s=placement.predicted_s,
        reason=placement.reason,
        candidates=[candidate_to_proto(c) for c in placement.candidates],
        margins=None if placement.margins is None else _margins_to_proto(placement.margins),
    )


def placement_from_proto(message: pb.Placement) -> Placement:
    """Read a decision.

    Raises:
        WireError: a field is missing or malformed.
    """
    return Placement(
        request_id=RequestId(identity("Placement.request_id", message.request_id)),
        path=known("Placement.path", _PATH_FROM_PROTO, message.path),
        worker_id=WorkerId(identity("Placement.worker_id", message.worker_id)),
        overlap_blocks=message.overlap_blocks,
        predicted_ttft_s=number("Placement.predicted_ttft_s", message.predicted_ttft_s),
        predicted_tpot_s=number("Placement.predicted_tpot_s", message.predicted_tpot_s),
        predicted_s=number("Placement.predicted_s", message.predicted_s),
        reason=message.reason,
        candidates=tuple(map(candidate_from_proto, message.candidates)),
        margins=_margins("Placement", message),
    )


def decode_candidate_to_proto(candidate: DecodeCandidate) -> pb.DecodeCandidate:
    """Write one decode worker that was looked at."""
    return pb.DecodeCandidate(
        worker_id=candidate.worker_id,
        step_s=candidate.step_s,
        kv_free_frac=candidate.kv_free_frac,
        cost_s=candidate.cost_s,
        excluded=candidate.excluded,
    )


def decode_candidate_from_proto(message: pb.DecodeCandidate) -> DecodeCandidate:
    """Read one decode worker that was looked at.

    Raises:
        WireError: a field is missing or malformed.
    """
    return DecodeCandidate(
        worker_id=WorkerId(identity("DecodeCandidate.worker_id", message.worker_id)),
        step_s=number("DecodeCandidate.step_s", message.step_s),
        kv_free_frac=number("DecodeCandidate.kv_free_frac", message.kv_free_frac),
        cost_s=number("DecodeCandidate.cost_s", message.cost_s),
        excluded=message.excluded if message.HasField("excluded") else None,
    )


def decode_placement_to_proto(placement: DecodePlacement) -> pb.DecodePlacement:
    """Write the choice of a decode worker."""
    return pb.DecodePlacement(
        request_id=placement.request_id,
        worker_id=placement.worker_id,
        reason=placement.reason,
        candidates=[decode_candidate_to_proto(c) for c in placement.candidates],
    )


def decode_placement_from_proto(message: pb.DecodePlacement) -> DecodePlacement:
    """Read the choice of a decode worker.

    Raises:
        WireError: a field is missing or malformed.
    """
    return DecodePlacement(
        request_id=RequestId(identity("DecodePlacement.request_id", message.request_id)),
        worker_id=WorkerId(identity("DecodePlacement.worker_id", message.worker_id)),
        reason=message.reason,
        candidates=tuple(map(decode_candidate_from_proto, message.candidates)),
    )


def place_response_to_proto(outcome: Placement | ServingError) -> pb.PlaceResponse:
    """Write the answer to a question for a placement.

    Raises:
        WireError: a value does not fit its field.
    """
    with writing("PlaceResponse"):
        if isinstance(outcome, ServingError):
            return pb.PlaceResponse(rejected=error_to_proto(outcome))
        return pb.PlaceResponse(placement=placement_to_proto(outcome))


def place_response_from_proto(message: pb.PlaceResponse) -> Placement | ServingError:
    """Read the answer to a question for a placement.

    Raises:
        WireError: it is neither a placement nor an error, or a field is missing or malformed.
    """
    match message.WhichOneof("outcome"):
        case "placement":
            return placement_from_proto(message.placement)
        case "rejected":
            return error_from_proto(message.rejected)
        case None:
            raise unknown_choice("PlaceResponse.outcome")


def place_decode_response_to_proto(outcome: DecodePlacement | ServingError) -> pb.PlaceDecodeResponse:
    """Write the answer to a question for a decode worker.

    Raises:
        WireError: a value does not fit its field.
    """
    with writing("PlaceDecodeResponse"):
        if isinstance(outcome, ServingError):
            return pb.PlaceDecodeResponse(rejected=error_to_proto(outcome))
        return pb.PlaceDecodeResponse(placement=decode_placement_to_proto(outcome))


def place_decode_response_from_proto(message: pb.PlaceDecodeResponse) -> DecodePlacement | ServingError:
    """Read the answer to a question for a decode worker.

    Raises:
        WireError: it is neither a placement nor an error, or a field is missing or malformed.
    """
    match message.WhichOneof("outcome"):
        case "placement":
            return decode_placement_from_proto(message.placement)
        case "rejected":
            return error_from_proto(message.rejected)
        case None:
            raise unknown_choice("PlaceDecodeResponse.outcome")
