"""Sampling: our words for how a token is chosen, said in vLLM's.

Comes in: a domain `Sampling` and the plan of one engine request.
Goes out: `vllm.SamplingParams`. Invariant: nothing is detokenized; the engine stops by token ids only.
A seed restarts with the decode request: with emitted tokens it is not exact, nor are penalties and
grammars (`Sampling.state_starts_at_prompt`); callers then decode from the prompt.
"""

from collections.abc import Mapping, Sequence

from vllm import SamplingParams
from vllm.logprobs import Logprob
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from services.domain.request import Sampling
from services.domain.stream import TokenLogprob
from services.engine.vllm.plan import EnginePlan


def to_sampling_params(
    sampling: Sampling, plan: EnginePlan, *, eos_token_ids: Sequence[int]
) -> SamplingParams:
    """Say how one engine request samples.

    Args:
        sampling: of the original request.
        plan: the engine request; its emitted tokens count against `min_tokens`.
        eos_token_ids: end-of-sequence tokens of the model; given explicitly, because an engine without a
            tokenizer knows none.

    Raises:
        ValueError: vLLM refuses a value; the message says which.
    """
    stops = set(sampling.stop_token_ids)
    if not sampling.ignore_eos:
        stops.update(eos_token_ids)
    schema = sampling.json_schema
    return SamplingParams(
        max_tokens=plan.max_tokens,
        min_tokens=min(max(sampling.min_tokens - plan.emitted_count, 0), plan.max_tokens),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        stop_token_ids=sorted(stops),
        ignore_eos=sampling.ignore_eos,
        logprobs=sampling.logprobs_count,
        structured_outputs=StructuredOutputsParams(json=schema) if schema is not None else None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={"kv_transfer_params": dict(plan.connector)} if plan.connector is not None else None,
    )


def to_token_logprobs(
    token_ids: Sequence[int], rows: Sequence[Mapping[int, Logprob]], *, count: int
) -> tuple[TokenLogprob, ...]:
    """Read vLLM's log-probabilities.

    Args:
        token_ids: sampled tokens, shape [new_tokens].
        rows: per token, by token id: the sampled one and the likeliest `count`.
        count: alternatives asked for.
    """
    read: list[TokenLogprob] = []
    for token_id, row in zip(token_ids, rows, strict=True):
        ranked = sorted(
            (found.rank, other, found.logprob)
            for other, found in row.items()
            if found.rank is not None and found.rank <= count
        )
        top = tuple((other, logprob) for _, other, logprob in ranked)
        read.append(TokenLogprob(token_id=token_id, logprob=row[token_id].logprob, top=top))
    return tuple(read)
