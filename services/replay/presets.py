"""Engines that can be replayed: a performance model with the limits it was measured or published with.

Comes in: a name. Goes out: an engine. Invariant: any model of `services.domain.performance` can be named;
one without limits of its own here gets those of the default. Not here: the models' constants.
"""

from dataclasses import dataclass

from services.domain.errors import ConfigurationInvalid
from services.domain.performance import PRESETS, PerformanceModel, preset

DEFAULT_TIMING = "h200-llama-3.1-8b-fp8"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTiming:
    """One worker's engine."""

    performance: PerformanceModel
    block_size_tokens: int = 16
    """vLLM's default on GPUs."""
    kv_blocks: int = 59_064
    """945,029 tokens, measured with Llama-3.1-8B in FP8 on one H200."""
    kv_bytes_per_token: int = 131_072
    """Llama-3.1-8B with 16-bit KV: 32 layers, 8 heads of 128, keys and values."""
    layers: int = 32
    """Of Llama-3.1-8B. The KV of each exists when it is computed, and all take the same time."""
    sequences_max: int = 256
    """Sequences in one step; vLLM's default on a large GPU."""
    step_tokens_max: int = 8_192
    """Tokens computed in one step; vLLM's default on a large GPU."""

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block."""
        return self.block_size_tokens * self.kv_bytes_per_token


def timings() -> dict[str, EngineTiming]:
    """List all engines by name."""
    engines = {name: EngineTiming(performance=performance) for name, performance in PRESETS.items()}
    engines["dynamo-mocker"] = EngineTiming(
        performance=preset("dynamo-mocker"), block_size_tokens=64, kv_blocks=16_384
    )
    return engines


def timing_named(name: str) -> EngineTiming:
    """Look up an engine.

    Raises:
        ConfigurationInvalid: if there is none of that name.
    """
    engines = timings()
    if name not in engines:
        known = ", ".join(sorted(engines))
        raise ConfigurationInvalid(key="timing", message=f"timing: none is named {name!r}; known are {known}")
    return engines[name]
