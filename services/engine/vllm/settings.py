"""Settings of a vLLM engine: one frozen struct, checked before anything heavy is imported.

Comes in: a mapping of the configuration file, or keyword arguments. Goes out: `VllmSettings`.
Invariant: an unknown key or an impossible value stops the start with a message that names the key.
Not here: which cores exist, whether the model folder can be read (found out at start).
"""

import ipaddress
from typing import Annotated, Literal, TypeAlias

import msgspec

from services.domain.errors import ConfigurationInvalid
from services.domain.integrity import CHECKS_MAX
from services.domain.performance import PerformanceModel, preset

Positive = Annotated[int, msgspec.Meta(gt=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]

Scalar: TypeAlias = str | int | float | bool | None
ExtraValue: TypeAlias = Scalar | list[Scalar] | dict[str, Scalar]

PROGRESS_DELAY_KEY = "baton_progress_delay_us"
SIDE_CHANNEL_HOST_KEY = "baton_side_channel_host"
SIDE_CHANNEL_PORT_KEY = "baton_side_channel_port"
"""Keys of vLLM's `kv_connector_extra_config` that carry our settings to our connector."""

SAMPLE_KEY = "baton_sample"
CHECKS_KEY = "baton_checks"
"""Keys of a request's `kv_transfer_params`: places of blocks to fingerprint; fingerprints, as
[[place, [number per device]]]."""
MATCHED_KEY = "baton_matched"
MISMATCHED_KEY = "baton_mismatched"
"""Keys of the connector's statistics: engine request ids of pulls that a device compared in a step."""

LEASE_MARGIN_S = 1.0
"""Taken off the lease that a ticket promises: covers the ticket's way to its holder and the pull's start."""


class NodesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine over several machines, and which of them this is."""

    count: Annotated[int, msgspec.Meta(ge=2)]
    """Machines. Each runs an equal share of the engine's devices."""
    rank: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0 leads: it schedules, serves and is the worker that others see. Those above follow: they compute."""
    leader_host: Annotated[str, msgspec.Meta(min_length=1)]
    """Name or address of the leader, as the followers see it."""
    leader_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 29501  # vLLM's default
    """Port at which the leader gathers its followers."""

    def __post_init__(self) -> None:
        """Refuse a machine that is none of them.

        Raises:
            ConfigurationInvalid: names the key.
        """
        if self.rank >= self.count:
            raise ConfigurationInvalid(
                key="nodes.rank", message=f"nodes.rank: {self.rank} must be below nodes.count ({self.count})"
            )


class VllmSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="vllm"
):
    """How one vLLM engine runs; the defaults are the shipped tiny model on a CPU."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    """Folder (or hub name) of the weights."""
    model_name: str = ""
    """Name under which the model is served; part of every block hash. Empty takes `model`."""
    model_revision: str = ""
    """Tells weights of equal shape and name apart; KV is handed over only between equals."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """"float32" makes the tokens of all engines and batches equal (bf16 rounding depends on the batch) and
    is the faster one on CPUs without bf16 instructions (measured: prefill 2.8x). For GPUs: "auto", the
    checkpoint's own, with float32 made bf16."""
    block_size_tokens: Positive = 32
    """Tokens per KV block. CPU attention with NIXL takes multiples of 32 only (vLLM's CPU default is 128,
    its GPU default 16); 32 runs on both, and keeps short shared prefixes reusable."""
    kv_cache_bytes: Positive | None = 256 * 1024 * 1024
    """Size of the KV cache. None lets vLLM take a share of the memory: for GPUs."""
    gpu_memory_utilization: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.9
    """Share of GPU memory for weights and KV when `kv_cache_bytes` is None; vLLM's default."""
    context_tokens_max: Positive | None = None
    """Prompt and output together; None takes the model's own limit."""
    sequences_max: Positive = 128
    """Sequences in one step; vLLM's default on a CPU."""
    step_tokens_max: Positive = 2048
    """Tokens computed in one step; a longer prompt is prefilled in chunks."""
    tensor_parallel_size: Positive = 1
    """Devices per engine."""
    nodes: NodesSettings | None = None
    """Machines that share these devices; null: this one has all of them."""
    enforce_eager: bool = True
    """Skip compilation; with `kv_cache_bytes` set, a CPU engine then boots in seconds."""
    structured_output: bool = False
    """Load the tokenizer, so that `Sampling.json_schema` works. Prompts are token ids either way and
    nothing is detokenized here; without it a JSON schema ends in `Unsupported`."""
    disaggregation: bool = True
    """Run the NIXL connector; False gives a plain aggregated engine without tickets."""
    lease_s: Annotated[int, msgspec.Meta(ge=3, le=3600)] = 30
    """How long KV blocks wait for their pull, whole seconds (vLLM's heartbeat divides them by 6)."""
    kv_check_frac: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """Share of handoffs of which a sample of blocks is fingerprinted here and compared by whoever pulls
    them; 0 fingerprints none. All by default: it adds between 1 and 2 % to a handoff (docs/integrity.md)."""
    kv_check_blocks: Annotated[int, msgspec.Meta(ge=1, le=CHECKS_MAX)] = 4
    """Blocks fingerprinted per checked handoff, the prompt's last one always among them."""
    kv_load_failure: Literal["fail", "recompute"] = "fail"
    """"fail" ends a request whose pull failed with `KvLost` (or `KvCorrupt`), so that its owner decides
    anew; "recompute" prefills it silently here, in the middle of other requests' decode steps."""
    side_channel_host: str = "127.0.0.1"
    """IP address at which peers fetch this engine's NIXL metadata; on a cluster the pod's own. With a
    loopback address, transfers stay on loopback too."""
    side_channel_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """Its port; 0 takes a free one."""
    kv_events: bool = True
    """Tell which blocks the cache holds."""
    cores: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()
    """CPU cores for all threads of this process and of the engine's; empty pins nothing. A must where
    engines share a machine: unpinned, their OpenMP threads land on one core and prefills stall for
    seconds."""
    openmp_threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Compute threads; 0 takes one per pinned core, or leaves the choice to OpenMP."""
    progress_delay_us: Positive = 1000
    """Pause of NIXL's progress thread between polls; at NIXL's own 0 it burns a whole core."""
    ucx_transports: str = "tcp,self"
    """UCX transports (`UCX_TLS`); empty leaves the choice to UCX (GPUs with RDMA)."""
    adapters: dict[str, str] = {}
    """LoRA adapter name to folder."""
    performance: str | PerformanceModel = "cpu-baton-tiny"
    """Name of a preset, or a model of one's own."""
    jobs_max: Positive = 4096
    """Jobs held at once, running and waiting; one more ends in `Saturated`."""
    boot_timeout_s: Seconds = 300.0
    """Longest start."""
    health_timeout_s: Seconds = 60.0
    """Longest silence of an engine that has work; must exceed the longest single step."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    """Of vLLM's own logs."""
    extra_engine_args: dict[str, ExtraValue] = {}
    """Further `AsyncEngineArgs` of vLLM, by their own names."""

    def __post_init__(self) -> None:
        """Refuse values that are possible alone and impossible together.

        Raises:
            ConfigurationInvalid: names the key.
        """
        if len(set(self.cores)) != len(self.cores):
            raise ConfigurationInvalid(key="cores", message=f"cores: {self.cores} repeats a core")
        if self.step_tokens_max < self.sequences_max:
            raise ConfigurationInvalid(
                key="step_tokens_max",
                message=f"step_tokens_max: {self.step_tokens_max} is below sequences_max "
                f"({self.sequences_max}), but each sequence takes a token of each step",
            )
        try:
            ipaddress.ip_address(self.side_channel_host)
        except ValueError:
            message = f"side_channel_host: {self.side_channel_host!r} is no IP address"
            raise ConfigurationInvalid(key="side_channel_host", message=message) from None
        if self.nodes is not None and ipaddress.ip_address(self.side_channel_host).is_unspecified:
            message = "side_channel_host: with nodes, name this machine's own address"
            raise ConfigurationInvalid(key="side_channel_host", message=message)
        if "" in self.adapters:
            raise ConfigurationInvalid(key="adapters", message="adapters: the empty name is the plain model")
        self.performance_model()

    @property
    def served_name(self) -> str:
        """Name under which the model is served."""
        return self.model_name or self.model

    @property
    def follows(self) -> bool:
        """Whether another machine leads this engine."""
        return self.nodes is not None and self.nodes.rank > 0

    def performance_model(self) -> PerformanceModel:
        """Resolve `performance`.

        Raises:
            ConfigurationInvalid: there is no preset of that name.
        """
        return preset(self.performance) if isinstance(self.performance, str) else self.performance
