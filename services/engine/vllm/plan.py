"""From a job to one engine request: which prompt, how many tokens, which connector parameters. Pure.

Comes in: a job, settings and facts of the engine. Goes out: a plan, or the error that the job ends with.
Invariant: what a plan names can be run: an engine that reads a token outside its vocabulary or a block
that does not exist dies, so nothing of that kind passes. Not here: sampling (`sampling`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from services.domain.blocks import blocks_for
from services.domain.errors import (
    ContextTooLong,
    InvalidRequest,
    ServingError,
    TicketInvalid,
    UnknownModel,
    Unsupported,
)
from services.domain.integrity import sample_blocks
from services.domain.request import InferenceRequest
from services.domain.worker import WorkerLimits
from services.engine.port import DecodeJob, PrefillJob
from services.engine.vllm.settings import SAMPLE_KEY, VllmSettings
from services.engine.vllm.ticket import PREFILL_PARAMS, Json, decode_params


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """One engine request.

    Attributes:
        prompt_token_ids: shape [prompt_tokens + emitted tokens].
        max_tokens: new tokens, >= 1.
        emitted_count: output tokens that stand in the prompt.
        connector: `kv_transfer_params`; None without hand-off.
        keeps_blocks: whether the prompt's blocks stay under a lease afterwards.
    """

    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    emitted_count: int = 0
    connector: Mapping[str, Json] | None = None
    keeps_blocks: bool = False


class PlanFacts(Protocol):
    """What a plan must know of the engine."""

    @property
    def limits(self) -> WorkerLimits:
        """Fixed facts."""
        ...

    @property
    def vocabulary_tokens(self) -> int:
        """Token ids are below it."""
        ...


def plan_job(
    job: PrefillJob | DecodeJob, *, settings: VllmSettings, facts: PlanFacts
) -> EnginePlan | ServingError:
    """Say how the engine runs a job, or why it cannot."""
    request = job.request
    emitted = job.emitted_token_ids if isinstance(job, DecodeJob) else ()
    prompt = request.prompt_token_ids + emitted
    limit = facts.limits.context_tokens_max
    if error := _refusal(request, settings):
        return error
    if not request.prompt_token_ids:
        return InvalidRequest(message="the prompt has no tokens", param="prompt")
    if len(prompt) >= limit:
        return ContextTooLong(
            message=f"{len(prompt)} tokens leave no room for output in a context of {limit}",
            prompt_tokens=len(prompt),
            limit_tokens=limit,
        )
    outside = next((t for t in prompt if not 0 <= t < facts.vocabulary_tokens), None)
    if outside is not None:
        return InvalidRequest(
            message=f"token id {outside} is outside the vocabulary of {facts.vocabulary_tokens}",
            param="prompt",
        )
    max_tokens = min(request.sampling.max_tokens, limit - request.prompt_tokens) - len(emitted)
    if max_tokens < 1:
        return InvalidRequest(
            message=f"max_tokens is used up by {len(emitted)} emitted tokens", param="max_tokens"
        )
    if isinstance(job, PrefillJob):
        return _plan_prefill(request, max_tokens, settings, facts)
    if job.ticket is None:
        return EnginePlan(prompt_token_ids=prompt, max_tokens=max_tokens, emitted_count=len(emitted))
    if not settings.disaggregation:
        return TicketInvalid(message="this engine runs without a connector and reads no tickets")
    if job.ticket.prompt_tokens != request.prompt_tokens:
        return TicketInvalid(
            message=f"the ticket is for {job.ticket.prompt_tokens} tokens, "
            f"the prompt has {request.prompt_tokens}"
        )
    try:
        connector = decode_params(
            job.ticket, emitted_count=len(emitted), block_size_tokens=facts.limits.block_size_tokens
        )
    except TicketInvalid as failure:
        return failure
    return EnginePlan(
        prompt_token_ids=prompt, max_tokens=max_tokens, emitted_count=len(emitted), connector=connector
    )


def _plan_prefill(
    request: InferenceRequest, max_tokens: int, settings: VllmSettings, facts: PlanFacts
) -> EnginePlan | ServingError:
    prompt = request.prompt_token_ids
    if max_tokens == 1:
        return EnginePlan(prompt_token_ids=prompt, max_tokens=1)  # nobody will pull, so nothing is kept
    if not settings.disaggregation:
        return Unsupported(
            message="this engine runs without a connector and keeps no blocks", param="prefill"
        )
    sample = sample_blocks(
        request.request_id,
        block_count=blocks_for(len(prompt), facts.limits.block_size_tokens),
        handoff_frac=settings.kv_check_frac,
        blocks_max=settings.kv_check_blocks,
    )
    connector: dict[str, Json] = {**PREFILL_PARAMS, SAMPLE_KEY: list[Json](sample)}
    return EnginePlan(prompt_token_ids=prompt, max_tokens=1, connector=connector, keeps_blocks=True)


def _refusal(request: InferenceRequest, settings: VllmSettings) -> ServingError | None:
    if request.model != settings.served_name:
        return UnknownModel(message=f"this engine serves {settings.served_name}", model=request.model)
    if request.scope.adapter and request.scope.adapter not in settings.adapters:
        return UnknownModel(message="this engine has no such LoRA adapter", model=request.scope.adapter)
    if request.sampling.json_schema is not None and not settings.structured_output:
        return Unsupported(
            message="structured output is off (structured_output: false)", param="response_format"
        )
    return None
