"""A request: one sequence to generate, as every room behind the gateway sees it.

Comes in: checked, tokenized input of the gateway. Goes out: the frozen request that router, queue,
prefill and decode pass on. Invariant: a request says all that an engine needs to produce its tokens.
Not here: text, chat messages, stop strings and choices (`n`): the gateway resolves them.
"""

from dataclasses import dataclass

from services.domain.blocks import CacheScope
from services.domain.ids import RequestId


def is_batch(priority: int) -> bool:
    """Whether work of this priority is batch work: nobody watches it, interactive work goes before it."""
    return priority > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Meanings follow vLLM 0.32 `SamplingParams`."""

    max_tokens: int
    """Most tokens to generate, >= 1."""
    min_tokens: int = 0
    """Fewest tokens before an end-of-sequence or stop token may end the sequence."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """In (0, 1]."""
    top_k: int = 0
    """0 keeps all tokens."""
    min_p: float = 0.0
    """In [0, 1]."""
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs (token id, bias added to its logit)."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs_count: int | None = None
    """Most likely alternatives reported per token beside the sampled one; None reports nothing."""
    json_schema: str | None = None
    """JSON schema text that the output must match; None leaves it free."""

    @property
    def state_starts_at_prompt(self) -> bool:
        """Whether decode must sample the first token itself to stay exact.

        A seeded generator, penalties and a grammar carry state from the first sampled token on; a
        decode engine that is given that token as part of its prompt would restart them (measured
        with vLLM 0.32 for seed and grammar).
        """
        return (
            (self.seed is not None and self.temperature > 0)
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
            or self.repetition_penalty != 1
            or self.json_schema is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """One prompt to continue.

    Attributes:
        request_id: unique across the cluster.
        scope: model, adapter and salt under which KV may be shared.
        prompt_token_ids: shape [prompt_tokens], at least one token.
        sampling: how tokens are chosen.
        priority: smaller is more urgent; 0 is the default of interactive traffic, above it is batch.
    """

    request_id: RequestId
    scope: CacheScope
    prompt_token_ids: tuple[int, ...]
    sampling: Sampling
    priority: int = 0

    @property
    def model(self) -> str:
        """Name of the served model."""
        return self.scope.model

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt (ISL), tokens."""
        return len(self.prompt_token_ids)

    @property
    def total_tokens(self) -> int:
        """Most tokens of KV this request can come to hold: prompt and output."""
        return self.prompt_tokens + self.sampling.max_tokens
