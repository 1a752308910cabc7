"""The process environment of a vLLM engine: variables that must stand before `vllm` is imported, and cores.

Comes in: settings. Goes out: changes of `os.environ` and of CPU affinity, inherited by the engine process.
Invariant: nothing here imports vllm; what the operator set by hand is kept unless it breaks the engine.
Sources: vLLM 0.32 `envs.py`, `platforms/cpu.py`; OpenMP 5; UCX 1.19.
"""

import ipaddress
import logging
import os
import socket
import sys
import tempfile
from pathlib import Path

from services.domain.errors import ConfigurationInvalid
from services.engine.vllm.settings import VllmSettings

log = logging.getLogger(__name__)


def forced_environment(settings: VllmSettings) -> dict[str, str]:
    """List the variables without which the engine would not run as designed."""
    forced = {
        # Read by the CPU platform only: without it "uni" silently becomes "mp" (one process more, a third
        # of the throughput). AsyncLLM keeps its engine process all the same.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Affinity is inherited and pinned by us; vLLM's own binding knows nothing of other engines.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # The engine process must not inherit this process's threads and sockets.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_LOGGING_LEVEL": settings.log_level,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "NIXL_LOG_LEVEL": settings.log_level.removesuffix("ING"),  # NIXL says WARN
    }
    if threads := settings.openmp_threads or len(settings.cores):
        forced["OMP_NUM_THREADS"] = str(threads)
    if Path(settings.model).is_dir():
        forced["HF_HUB_OFFLINE"] = "1"
    return forced


def default_environment(settings: VllmSettings) -> dict[str, str]:
    """List the variables that are set unless the operator did.

    Spinning OpenMP threads (gcc's and Intel's names for it) starve the event loop and the progress thread
    that share their cores. UCX's cache of released registrations leaks without a bound (vLLM sets the same).
    vLLM 0.32 decorates single functions of its sampler (`v1/sample/ops/logprobs.py`) with `torch.compile`
    even where `enforce_eager` is set: the first request with log-probabilities then stops the engine for
    up to 20 s, and needs a C++ compiler on the machine. Off with the rest of compilation.
    """
    defaults = {
        "OMP_WAIT_POLICY": "passive",
        "KMP_BLOCKTIME": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "UCX_RCACHE_MAX_UNRELEASED": "1024",
    }
    if settings.enforce_eager:
        defaults["TORCH_COMPILE_DISABLE"] = "1"
    if settings.ucx_transports:
        defaults["UCX_TLS"] = settings.ucx_transports
    if ipaddress.ip_address(settings.side_channel_host).is_loopback:
        # Peers are on this machine: UCX and torch's gloo would listen on every interface otherwise.
        defaults |= {"UCX_NET_DEVICES": "lo", "GLOO_SOCKET_IFNAME": "lo", "VLLM_HOST_IP": "127.0.0.1"}
    elif settings.nodes is not None:
        defaults["VLLM_HOST_IP"] = settings.side_channel_host  # where followers fetch what is to be computed
    return defaults


def prepare(settings: VllmSettings) -> None:
    """Set the environment of this process and of those it will start; pin its threads.

    Raises:
        ConfigurationInvalid: a pinned core does not exist, or is not allowed to this process.
    """
    if "vllm" in sys.modules:
        log.info("vllm was imported before: variables that it read then keep their old values")
    os.environ.update(forced_environment(settings))
    for name, value in default_environment(settings).items():
        os.environ.setdefault(name, value)
    pin_threads(settings.cores)


def pin_threads(cores: tuple[int, ...]) -> None:
    """Pin every thread of this process; threads and processes started later inherit it.

    Args:
        cores: core numbers; empty changes nothing.

    Raises:
        ConfigurationInvalid: a core does not exist.
    """
    if not cores:
        return
    for task in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:
            continue  # the thread ended since the folder was read
        except OSError as failure:
            raise ConfigurationInvalid(
                key="cores", message=f"cores: cannot run on cores {cores}: {failure}"
            ) from failure


def free_port(host: str) -> int:
    """Find a TCP port that is free now; the engine binds it moments later."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def private_folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder, readable by this user only, for the engine's local sockets (paths must stay short)."""
    return tempfile.TemporaryDirectory(prefix="baton-", ignore_cleanup_errors=True)
