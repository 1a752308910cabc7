"""Settings of a simulated engine.

Comes in: YAML values or keyword arguments. Goes out: a frozen struct that can be simulated.
Invariant: an impossible combination refuses the start and names its key. Not here: cluster settings.
"""

import dataclasses
from typing import Annotated

import msgspec

from services.domain.errors import ConfigurationInvalid
from services.domain.integrity import CHECKS_MAX
from services.domain.performance import PerformanceModel, preset
from services.domain.worker import WorkerLimits
from services.engine.simulated.oracle import Vocabulary


class SimulatedSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="simulated"
):
    """What a simulated engine pretends to be; the defaults are one H200 with Llama-3.1-8B in FP8."""

    performance: str | PerformanceModel = "h200-llama-3.1-8b-fp8"
    """Name of a preset, or a model of one's own. The default was measured (services.domain.performance)."""
    speedup: float = 1.0
    """Divides every duration of the performance model, > 0. Leases are promises and are not divided."""
    start_s: float = 0.0
    """Time to load the model, s, >= 0."""
    block_size_tokens: int = 16
    """Tokens per KV block; vLLM's default on GPUs."""
    kv_blocks: int = 59_064
    """KV capacity; the preset's 945,029 measured tokens."""
    kv_bytes_per_token: int = 131_072
    """Llama-3.1-8B with 16-bit KV: 32 layers, 8 heads of 128, keys and values."""
    context_tokens_max: int = 131_072
    """Prompt and output together; the model's context."""
    sequences_max: int = 256
    """Sequences in one step; vLLM's default on a large GPU."""
    step_tokens_max: int = 8_192
    """Tokens computed in one step; vLLM's default on a large GPU. At least `sequences_max`."""
    jobs_max: int = 4_096
    """Jobs held at once, running and waiting; one more ends in `Saturated`."""
    kv_check_frac: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """Share of handoffs whose blocks are fingerprinted, in [0, 1]; 0 fingerprints none."""
    kv_check_blocks: Annotated[int, msgspec.Meta(ge=1, le=CHECKS_MAX)] = 4
    """Blocks fingerprinted per checked handoff, the last one always among them."""
    lease_s: float = 30.0
    """How long the blocks of a handoff wait for their puller, s; vLLM's default."""
    health_timeout_s: float = 5.0
    """How long a frozen engine may leave a health check without an answer, s."""
    vocabulary_size: int = 4_096
    """Token ids written are smaller; that of the shipped tiny model."""
    first_token_id: int = 261
    """Smallest ordinary token id: behind the tiny model's 5 special tokens and 256 single bytes."""
    eos_token_id: int = 1
    """End of sequence; the tiny model's. Outside the ordinary range."""
    eos_every_tokens: int = 200
    """One token in so many ends its sequence, on average; 0 never does."""
    version: str = "1"
    """Made part of its KV layout: engines of unequal versions refuse each other's KV, as vLLM's do."""
    side_channel_host: str | None = None
    """Address to listen on (UDP) for engines of other processes that end leases here; None: one process."""

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            ConfigurationInvalid: names the key.
        """
        for key in ("speedup", "lease_s", "health_timeout_s"):
            if not getattr(self, key) > 0:
                raise _invalid(key, "must be greater than 0")
        for key in ("block_size_tokens", "kv_blocks", "kv_bytes_per_token", "sequences_max", "jobs_max"):
            if getattr(self, key) < 1:
                raise _invalid(key, "must be at least 1")
        for key in ("start_s", "eos_every_tokens", "first_token_id", "eos_token_id"):
            if getattr(self, key) < 0:
                raise _invalid(key, "must not be negative")
        if self.step_tokens_max < self.sequences_max:
            raise _invalid("step_tokens_max", "must be at least sequences_max, or decodes would starve")
        if not 2 <= self.context_tokens_max <= self.kv_blocks * self.block_size_tokens:
            raise _invalid("context_tokens_max", "must be at least 2 and fit kv_blocks * block_size_tokens")
        if self.vocabulary_size <= self.first_token_id:
            raise _invalid("vocabulary_size", "must be greater than first_token_id")
        if self.first_token_id <= self.eos_token_id < self.vocabulary_size:
            raise _invalid("eos_token_id", "must not be an ordinary token id")
        if isinstance(self.performance, str):
            preset(self.performance)

    def effective_performance(self) -> PerformanceModel:
        """The performance model after the speedup: what the engine does and what routers should predict."""
        model = preset(self.performance) if isinstance(self.performance, str) else self.performance
        paced = model.paced(prefill=1 / self.speedup, decode=1 / self.speedup)
        return dataclasses.replace(
            paced,
            handoff_s=model.handoff_s / self.speedup,
            transfer_bytes_per_s=model.transfer_bytes_per_s * self.speedup,
        )

    def limits(self) -> WorkerLimits:
        """Fixed facts, as the worker publishes them."""
        return WorkerLimits(
            block_size_tokens=self.block_size_tokens,
            kv_blocks=self.kv_blocks,
            kv_bytes_per_token=self.kv_bytes_per_token,
            context_tokens_max=self.context_tokens_max,
            sequences_max=self.sequences_max,
            step_tokens_max=self.step_tokens_max,
            compatibility=f"simulated/{self.version} "
            f"block={self.block_size_tokens} bytes={self.kv_bytes_per_token}",
        )

    def vocabulary(self) -> Vocabulary:
        """Token ids that the engine writes."""
        return Vocabulary(
            size=self.vocabulary_size,
            first_ordinary_id=self.first_token_id,
            eos_token_id=self.eos_token_id,
            eos_every_tokens=self.eos_every_tokens,
        )


def _invalid(key: str, what: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(key=key, message=f"simulated engine: {key} {what}")
