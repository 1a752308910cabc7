"""Starting vLLM: our settings said as vLLM's engine arguments, and the facts of what came up.

Comes in: settings and endpoints. Goes out: a running `AsyncLLM`.
Invariant: every argument that we rely on is explicit; `extra_engine_args` may add, never contradict.
Not here: the environment (`environment`), jobs (`adapter`).
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import msgspec
from vllm import AsyncEngineArgs
from vllm import __version__ as vllm_version
from vllm.config import KVEventsConfig, KVTransferConfig
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import StatLoggerFactory

from services.domain.errors import ConfigurationInvalid
from services.engine.vllm.environment import free_port
from services.engine.vllm.settings import (
    PROGRESS_DELAY_KEY,
    SIDE_CHANNEL_HOST_KEY,
    SIDE_CHANNEL_PORT_KEY,
    VllmSettings,
)

CONNECTOR = ("services.engine.vllm.connector", "NixlConnector")
"""Module and class, loaded in the engine process only: importing it here would load NIXL for nothing."""
EXTENSION = "services.engine.vllm.extension.BatonWorkerExtension"


def engine_arguments(
    settings: VllmSettings, *, events_endpoint: str, replay_endpoint: str
) -> AsyncEngineArgs:
    """Say our settings in vLLM's words.

    Raises:
        ConfigurationInvalid: `extra_engine_args` names what vLLM does not know or what is set already.
    """
    arguments: dict[str, Any] = {
        "model": settings.model,
        "dtype": settings.dtype,
        "block_size": settings.block_size_tokens,
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "max_model_len": settings.context_tokens_max,
        "max_num_seqs": settings.sequences_max,
        "max_num_batched_tokens": settings.step_tokens_max,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "distributed_executor_backend": "mp"
        if settings.tensor_parallel_size > 1 or settings.nodes
        else "uni",
        "enforce_eager": settings.enforce_eager,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
        "skip_tokenizer_init": not settings.structured_output,
        "generation_config": "vllm",  # the model's sampling defaults are the gateway's business
        "worker_extension_cls": EXTENSION,
        "disable_log_stats": True,
    }
    if settings.kv_events:
        arguments["kv_events_config"] = KVEventsConfig(
            enable_kv_cache_events=True,
            publisher="zmq",
            endpoint=events_endpoint,
            replay_endpoint=replay_endpoint,
        )
    if settings.disaggregation:
        host = settings.side_channel_host
        arguments["kv_transfer_config"] = KVTransferConfig(
            kv_connector=CONNECTOR[1],
            kv_connector_module_path=CONNECTOR[0],
            kv_role="kv_producer",  # a label: every engine here keeps and pulls; "kv_both" is deprecated
            kv_load_failure_policy=settings.kv_load_failure,
            kv_connector_extra_config={
                "kv_lease_duration": settings.lease_s,
                PROGRESS_DELAY_KEY: settings.progress_delay_us,
                SIDE_CHANNEL_HOST_KEY: host,
                SIDE_CHANNEL_PORT_KEY: settings.side_channel_port or free_port(host),
            },
        )  # no engine_id: a reused one is never trusted again by its peers after a restart
    if (nodes := settings.nodes) is not None:
        arguments |= {
            "nnodes": nodes.count,
            "node_rank": nodes.rank,
            "master_addr": nodes.leader_host,
            "master_port": nodes.leader_port,
        }
    if settings.adapters:
        arguments |= {"enable_lora": True, "max_loras": len(settings.adapters)}
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in settings.extra_engine_args:
        if name not in known or name in arguments:
            why = "is set by Baton's own settings" if name in arguments else "is unknown to vLLM"
            raise ConfigurationInvalid(
                key=f"extra_engine_args.{name}", message=f"extra_engine_args: {name} {why}"
            )
    return AsyncEngineArgs(**(arguments | settings.extra_engine_args))


def start(arguments: AsyncEngineArgs, *, stat_loggers: list[StatLoggerFactory]) -> AsyncLLM:
    """Start the engine process and load the model; blocks until it is ready, seconds to minutes."""
    return AsyncLLM.from_engine_args(arguments, stat_loggers=stat_loggers)


def compatibility(settings: VllmSettings, *, layout: str) -> str:
    """Name what must be equal for KV to be handed over.

    Args:
        settings: of the engine.
        layout: the connector's own text: hash of vLLM and NIXL connector version, model path, dtypes,
            heads and attention backend; and the memory layout.
    """
    config = Path(settings.model) / "config.json"
    shape = config.read_bytes() if config.is_file() else settings.model.encode()
    parts = [
        layout,
        settings.dtype,
        str(settings.block_size_tokens),
        str(settings.tensor_parallel_size),
        settings.model_revision,
        msgspec.json.encode(settings.extra_engine_args, order="sorted").decode(),
    ]
    digest = hashlib.blake2b(shape + "\0".join(parts).encode(), digest_size=8).hexdigest()
    return f"vllm/{vllm_version}/{digest}"


def eos_token_ids(llm: AsyncLLM) -> tuple[int, ...]:
    """Read the model's end-of-sequence tokens: of its generation config, else of its configuration."""
    found = llm.model_config.try_get_generation_config().get("eos_token_id")
    if found is None:
        found = getattr(llm.model_config.hf_text_config, "eos_token_id", None)
    if found is None:
        return ()
    return (found,) if isinstance(found, int) else tuple(found)
