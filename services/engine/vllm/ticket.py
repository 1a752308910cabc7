"""Connector parameters and tickets: what vLLM's NIXL connector says of kept blocks, checked both ways.

Comes in: `kv_transfer_params` of a finished prefill; or a ticket and the tokens that exist already.
Goes out: a ticket; or the parameters for one decode request.
Invariant: parameters reach an engine only when they are complete and name exactly the blocks that the
decode prompt needs. One block too few kills the engine, one too many gives wrong tokens with a normal
finish (vLLM 0.32, measured). Not here: age, single use and the prompt's digest (`domain.handoff`).
"""

import uuid
from typing import Annotated, Literal, TypeAlias

import msgspec

from services.domain.blocks import blocks_for
from services.domain.errors import TicketInvalid
from services.domain.handoff import Ticket, prompt_digest
from services.domain.ids import EngineEpoch, TicketId, WorkerId
from services.domain.integrity import BlockCheck
from services.domain.request import InferenceRequest
from services.domain.worker import WorkerLimits
from services.engine.vllm.settings import CHECKS_KEY, LEASE_MARGIN_S

BlockIndex = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]

FILLER_BLOCK = 0
"""vLLM's null block: never holds a request's KV. What is read from it is overwritten before use."""

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

PREFILL_PARAMS: dict[str, Json] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
"""Asks a prefill request to keep its blocks."""


class KeptBlocks(msgspec.Struct, frozen=True, kw_only=True):
    """`kv_transfer_params` of a finished prefill (vLLM 0.32, pull mode); other keys are dropped."""

    do_remote_prefill: Literal[True]
    do_remote_decode: Literal[False]
    remote_block_ids: tuple[tuple[BlockIndex, ...], ...]
    """Shape [cache groups][blocks]."""
    remote_engine_id: Annotated[str, msgspec.Meta(min_length=1)]
    remote_request_id: Annotated[str, msgspec.Meta(min_length=1)]
    remote_host: Annotated[str, msgspec.Meta(min_length=1)]
    remote_port: Annotated[int, msgspec.Meta(gt=0, lt=65536)]
    tp_size: Annotated[int, msgspec.Meta(gt=0)]
    dcp_size: Annotated[int, msgspec.Meta(gt=0)] = 1
    pp_size: Annotated[int, msgspec.Meta(gt=0)] = 1
    remote_num_tokens: Annotated[int, msgspec.Meta(gt=0)]
    remote_blocks_expiry_time: float | None = None
    transfer_mode: Literal["pull"] = "pull"
    remote_prefill_cached_tokens: int | None = None
    baton_checks: tuple[tuple[BlockIndex, tuple[int, ...]], ...] = ()
    """Fingerprints that our connector took: (place in the prompt, unsigned 64-bit number per device)."""


def parse_kept_blocks(params: object, *, prompt_tokens: int, block_size_tokens: int) -> KeptBlocks:
    """Check what a finished prefill says of its blocks.

    Args:
        params: `kv_transfer_params` as vLLM gave them.
        prompt_tokens: of the prompt that was prefilled.
        block_size_tokens: of the engine.

    Raises:
        TicketInvalid: they are incomplete, or name other blocks than the prompt fills.
    """
    try:
        kept = msgspec.convert(params, KeptBlocks)
    except msgspec.ValidationError as failure:
        raise TicketInvalid(message=f"connector parameters: {failure}") from failure
    needed = blocks_for(prompt_tokens, block_size_tokens)
    if kept.remote_num_tokens != prompt_tokens:
        raise TicketInvalid(
            message=f"connector parameters cover {kept.remote_num_tokens} tokens, "
            f"the prompt has {prompt_tokens}"
        )
    if not kept.remote_block_ids:
        raise TicketInvalid(message="connector parameters name no cache group")
    for group in kept.remote_block_ids:
        if len(group) != needed:
            raise TicketInvalid(
                message=f"connector parameters name {len(group)} blocks, the prompt fills {needed}"
            )
        if len(set(group)) != needed:
            raise TicketInvalid(message="connector parameters name a block twice")
    return kept


def issue_ticket(
    request: InferenceRequest,
    params: object,
    *,
    worker_id: WorkerId,
    epoch: EngineEpoch,
    limits: WorkerLimits,
    kv_bytes_per_block: int,
    lease_s: float,
) -> Ticket:
    """Make the ticket of a finished prefill.

    Args:
        request: whose prompt was prefilled.
        params: `kv_transfer_params` as vLLM gave them.
        worker_id: who holds the blocks.
        epoch: the engine's life.
        limits: of the engine.
        kv_bytes_per_block: of all ranks together.
        lease_s: how long the engine keeps the blocks; the ticket promises LEASE_MARGIN_S less.

    Raises:
        TicketInvalid: the parameters do not describe the prompt's blocks.
    """
    size = limits.block_size_tokens
    kept = parse_kept_blocks(params, prompt_tokens=request.prompt_tokens, block_size_tokens=size)
    count = blocks_for(request.prompt_tokens, size)
    return Ticket(
        ticket_id=TicketId(uuid.uuid4().hex),
        request_id=request.request_id,
        prefill_worker_id=worker_id,
        epoch=epoch,
        digest=prompt_digest(request.prompt_token_ids, request.scope),
        prompt_tokens=request.prompt_tokens,
        block_size_tokens=size,
        block_count=count,
        kv_bytes=count * kv_bytes_per_block,
        lease_s=lease_s - LEASE_MARGIN_S,
        compatibility=limits.compatibility,
        connector=render_connector(kept),
        checks=tuple(BlockCheck(block_index=index, digests=digests) for index, digests in kept.baton_checks),
    )


def render_connector(kept: KeptBlocks) -> str:
    """Write checked parameters as the ticket's JSON text; fingerprints are fields of the ticket itself."""
    return msgspec.json.encode(msgspec.structs.replace(kept, baton_checks=())).decode()


def decode_params(ticket: Ticket, *, emitted_count: int, block_size_tokens: int) -> dict[str, Json]:
    """Make the connector parameters of the one decode request that uses a ticket.

    With the first token already emitted, the decode prompt is one token longer than the KV that exists:
    vLLM computes that last token itself. When the prompt fills its blocks exactly, the longer prompt
    needs one block more than the ticket names; a filler stands for it, *only* then.

    Args:
        ticket: of the original prompt; already checked by `domain.handoff.check_ticket`.
        emitted_count: 0, or 1 when prefill's first token was shown.
        block_size_tokens: of this engine.

    Raises:
        TicketInvalid: the ticket cannot serve such a prompt.
    """
    if emitted_count > 1:
        raise TicketInvalid(
            message=f"a ticket holds the KV of its prompt, not of {emitted_count} emitted tokens: "
            "continue without it"
        )
    if ticket.block_size_tokens != block_size_tokens:
        raise TicketInvalid(
            message=f"ticket has blocks of {ticket.block_size_tokens} tokens, the engine {block_size_tokens}"
        )
    try:
        raw = msgspec.json.decode(ticket.connector)
    except msgspec.DecodeError as failure:
        raise TicketInvalid(message=f"connector parameters: {failure}") from failure
    kept = parse_kept_blocks(raw, prompt_tokens=ticket.prompt_tokens, block_size_tokens=block_size_tokens)
    needed = blocks_for(ticket.prompt_tokens + emitted_count, block_size_tokens)
    if not kept.remote_request_id.startswith(f"{ticket.request_id}-"):
        raise TicketInvalid(message="connector parameters name the lease of another request")
    groups = [list(g) + [FILLER_BLOCK] * (needed - len(g)) for g in kept.remote_block_ids]
    params: dict[str, Json] = msgspec.to_builtins(kept)
    params["remote_block_ids"] = [list[Json](g) for g in groups]
    params[CHECKS_KEY] = [[check.block_index, list[Json](check.digests)] for check in ticket.checks]
    return params
