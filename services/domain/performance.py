"""The one performance model: how long prefill, decode steps and transfers take.

Comes in: tokens and sequences. Goes out: predicted seconds. The router predicts TTFT with it, the
simulated engine takes its step times from it, the planner sizes pools by it; none has another.
Source of the form: prefill `a + sum(b n + c n (h + n/2))`, n new and h cached tokens per prompt
(projections are linear, attention grows with the context); decode `a + b B + c sum(L)`, B sequences,
L context tokens each (weights read once, KV read per token). When a step carries both, times add.
Two more terms, 0 unless a published calibration has them: prefill `+ d (sum n)^2`, decode `+ d (sum L)^2`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from services.domain.errors import ConfigurationInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillChunk:
    """Part of one prompt computed in one step."""

    new_tokens: int
    context_tokens: int
    """Tokens before them whose KV exists already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceModel:
    """Times of one engine on one kind of hardware."""

    prefill_step_s: float
    """Fixed cost of a step that prefills."""
    prefill_token_s: float
    """Per new token."""
    prefill_attention_s: float
    """Per pair of a new token and a token it attends to."""
    decode_step_s: float
    """Fixed cost of a step that decodes: the weights are read once."""
    decode_sequence_s: float
    """Per sequence in the step."""
    decode_context_token_s: float
    """Per token of context of all sequences in the step: their KV is read once."""
    handoff_s: float
    """Fixed cost of a handoff beside the bytes: messages and bookkeeping of both engines."""
    transfer_bytes_per_s: float
    """Rate at which KV moves from a prefill worker to a decode worker."""
    prefill_square_s: float = 0.0
    """Per square of the new tokens of a step, of all its prompts together."""
    decode_context_square_s: float = 0.0
    """Per square of the tokens of context of all sequences in the step; below 0 where it bends down."""
    decode_least_s: float = 0.0
    """No decode step is shorter."""

    def paced(self, *, prefill: float, decode: float) -> "PerformanceModel":
        """Make the model of an engine whose steps take so many times as long; transfers stay.

        Args:
            prefill: factor of everything that prefills, > 0.
            decode: factor of everything that decodes, > 0.
        """
        return replace(
            self,
            prefill_step_s=self.prefill_step_s * prefill,
            prefill_token_s=self.prefill_token_s * prefill,
            prefill_attention_s=self.prefill_attention_s * prefill,
            prefill_square_s=self.prefill_square_s * prefill,
            decode_step_s=self.decode_step_s * decode,
            decode_sequence_s=self.decode_sequence_s * decode,
            decode_context_token_s=self.decode_context_token_s * decode,
            decode_context_square_s=self.decode_context_square_s * decode,
            decode_least_s=self.decode_least_s * decode,
        )

    def chunk_s(self, chunk: PrefillChunk) -> float:
        """Time that one chunk adds to a step by itself: without what the step takes as a whole."""
        n, h = chunk.new_tokens, chunk.context_tokens
        return self.prefill_token_s * n + self.prefill_attention_s * n * (h + n / 2)

    def prefill_s(self, chunks: Iterable[PrefillChunk]) -> float:
        """Time of one step that computes these chunks; 0 when there are none."""
        tokens, costs_s = 0, 0.0
        for chunk in chunks:
            if chunk.new_tokens > 0:
                tokens += chunk.new_tokens
                costs_s += self.chunk_s(chunk)
        return self.steps_s(tokens=tokens, step_tokens_max=tokens) + costs_s if tokens else 0.0

    def steps_s(self, *, tokens: int, step_tokens_max: int) -> float:
        """Time that prefill steps take as a whole, beside what each chunk adds by itself.

        Args:
            tokens: new tokens of all steps together; none take no time.
            step_tokens_max: most new tokens per step; all steps but the last use it up.
        """
        full, rest = divmod(tokens, step_tokens_max)
        squares = full * step_tokens_max * step_tokens_max + rest * rest
        return (full + (rest > 0)) * self.prefill_step_s + squares * self.prefill_square_s

    def prompt_s(self, *, prompt_tokens: int, cached_tokens: int, step_tokens_max: int) -> float:
        """Time to prefill one prompt alone, in as many steps as the budget asks for.

        Args:
            prompt_tokens: whole prompt.
            cached_tokens: leading tokens whose KV exists; at least one token is always computed.
            step_tokens_max: most new tokens per step.
        """
        cached = min(cached_tokens, prompt_tokens - 1)
        new = prompt_tokens - cached
        whole_s = self.chunk_s(PrefillChunk(new_tokens=new, context_tokens=cached))
        return self.steps_s(tokens=new, step_tokens_max=step_tokens_max) + whole_s

    def shared_s(self, *, prompt_tokens: int, cached_tokens: int, step_tokens_max: int) -> float:
        """Time that one prompt adds to steps which others fill up, at most what it takes alone.

        Args:
            prompt_tokens: whole prompt.
            cached_tokens: leading tokens whose KV exists; at least one token is always computed.
            step_tokens_max: most new tokens per step.
        """
        new = prompt_tokens - min(cached_tokens, prompt_tokens - 1)
        alone_s = self.prompt_s(
            prompt_tokens=prompt_tokens, cached_tokens=cached_tokens, step_tokens_max=step_tokens_max
        )
        own_s = self.steps_s(tokens=new, step_tokens_max=step_tokens_max)
        full_s = self.steps_s(tokens=step_tokens_max, step_tokens_max=step_tokens_max)
        return alone_s - max(0.0, own_s - new / step_tokens_max * full_s)

    def decode_s(self, *, sequence_count: int, context_tokens: int) -> float:
        """Time of one step that writes one token for each sequence; 0 without sequences.

        Args:
            sequence_count: sequences in the step.
            context_tokens: KV tokens of all of them together.
        """
        if sequence_count == 0:
            return 0.0
        return max(
            self.decode_least_s,
            self.decode_step_s
            + self.decode_sequence_s * sequence_count
            + self.decode_context_token_s * context_tokens
            + self.decode_context_square_s * context_tokens * context_tokens,
        )

    def transfer_s(self, size_bytes: int) -> float:
        """Time from a finished prefill to readable KV on the decode worker."""
        return self.handoff_s + size_bytes / self.transfer_bytes_per_s


PRESETS: dict[str, PerformanceModel] = {
    # Measured: Llama-3.1-8B FP8 on one H200, vLLM; error 2.6 % (prefill) and 3.6 % (decode).
    "h200-llama-3.1-8b-fp8": PerformanceModel(
        prefill_step_s=18.55e-3,
        prefill_token_s=0.01411e-3,
        prefill_attention_s=0.984e-9,
        decode_step_s=4.385e-3,
        decode_sequence_s=0.0377e-3,
        decode_context_token_s=30.35e-9,
        handoff_s=8e-3,
        transfer_bytes_per_s=50e9,
    ),
    # Modelled: Llama-3.1-8B BF16 on one H100; vLLM's prefill adds about 15 ms a step to it.
    "h100-llama-3.1-8b-bf16": PerformanceModel(
        prefill_step_s=15.95e-3,
        prefill_token_s=0.02068e-3,
        prefill_attention_s=0.775e-9,
        decode_step_s=6.43e-3,
        decode_sequence_s=0.0101e-3,
        decode_context_token_s=42.3e-9,
        handoff_s=8e-3,
        transfer_bytes_per_s=50e9,
    ),
    # Modelled: Llama-3.1-70B FP8 on four H100; vLLM's prefill adds about 15 ms a step to it.
    "h100x4-llama-3.1-70b-fp8": PerformanceModel(
        prefill_step_s=24.23e-3,
        prefill_token_s=0.04547e-3,
        prefill_attention_s=0.982e-9,
        decode_step_s=10.70e-3,
        decode_sequence_s=0.0353e-3,
        decode_context_token_s=26.6e-9,
        handoff_s=8e-3,
        transfer_bytes_per_s=50e9,
    ),
    # Modelled: Llama-3.1-70B FP8 on two H200; vLLM's prefill adds about 15 ms a step to it.
    "h200x2-llama-3.1-70b-fp8": PerformanceModel(
        prefill_step_s=21.79e-3,
        prefill_token_s=0.06527e-3,
        prefill_attention_s=2.057e-9,
        decode_step_s=13.84e-3,
        decode_sequence_s=0.0365e-3,
        decode_context_token_s=37.3e-9,
        handoff_s=8e-3,
        transfer_bytes_per_s=50e9,
    ),
    # The mock engine of NVIDIA Dynamo 1.6.1, so that results compare one to one: prefill in ms
    # 4.209989e-07 t^2 + 1.518344e-02 t + 16.50142 with t new tokens in the step, decode in ms
    # max(1, -25.74 u^2 + 54.01 u + 5.74) with u the share in use of 16,384 blocks of 64 tokens;
    # links of 25 GB/s, and its handoff takes nothing beside the bytes.
    "dynamo-mocker": PerformanceModel(
        prefill_step_s=16.50142e-3,
        prefill_token_s=1.518344e-05,
        prefill_attention_s=0.0,
        prefill_square_s=4.209989e-10,
        decode_step_s=5.74e-3,
        decode_sequence_s=0.0,
        decode_context_token_s=54.01e-3 / 1_048_576,
        decode_context_square_s=-25.74e-3 / 1_048_576**2,
        decode_least_s=1e-3,
        handoff_s=0.0,
        transfer_bytes_per_s=25e9,
    ),
    # Measured: the shipped model in float32, vLLM 0.32, one core of a shared two-core x86-64 machine per
    # engine, blocks of 32 tokens, NIXL over TCP; the lowest of 12 rounds each, `tests.bench.bench_vllm`.
    # Prefill 32 to 4,096 tokens (error at most 2 %), decode 1 to 64 sequences of up to 2,048 tokens (error
    # at most 19 %, at the smallest), 32 to 4,096 tokens pulled; constants include the engine's messages.
    "cpu-baton-tiny": PerformanceModel(
        prefill_step_s=9.2e-3,
        prefill_token_s=27.1e-6,
        prefill_attention_s=35.4e-9,
        decode_step_s=4.88e-3,
        decode_sequence_s=75e-6,
        decode_context_token_s=356e-9,
        handoff_s=7.3e-3,
        transfer_bytes_per_s=0.57e9,
    ),
}
"""Named models."""


def preset(name: str) -> PerformanceModel:
    """Look up a named model.

    Raises:
        ConfigurationInvalid: if there is none of that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        known = ", ".join(sorted(PRESETS))
        raise ConfigurationInvalid(
            key="performance", message=f"performance: no preset named {name!r}; known are {known}"
        ) from None
