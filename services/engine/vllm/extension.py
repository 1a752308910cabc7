"""Calls that the adapter makes into the engine process; vLLM mixes this class into its worker.

Comes in: remote calls by name (`AsyncLLM.collective_rpc`), run between two engine steps.
Goes out: plain lists and dicts. Invariant: no call blocks or raises on unknown ids.
Not here: the connector itself (`connector`).
"""

import os
import shutil
import signal
import sys
import threading
import time
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, TypedDict

from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group

from services.engine.vllm.connector import NixlConnector
from services.engine.vllm.environment import pin_threads
from services.engine.vllm.seeds import spare_generators

if TYPE_CHECKING:
    from vllm.config import ParallelConfig
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

_PARENT_LOOK_S = 0.5
_LAST = -(10**6)
"""Exit priority behind every other finalizer."""


class WorkerFacts(TypedDict):
    """What only the engine process knows."""

    pid: int
    kv_cache_bytes: int
    """Of this rank's share of the cache."""
    layout: str
    """Compatibility text of the connector; empty without one."""


class BatonWorkerExtension:
    """Mixed into vLLM's worker class; names start with `baton_` so that they cannot collide."""

    model_runner: "GPUModelRunner"
    parallel_config: "ParallelConfig"

    def baton_settle(self, parent_pid: int, cores: list[int], folder: str) -> WorkerFacts:
        """Make the engine process a good child: pinned, deaf to Ctrl-C, gone when its parent is gone.

        Args:
            parent_pid: process that holds the adapter. A terminal sends Ctrl-C to both; the parent
                drains and then stops this process, which must not die first.
            cores: cores of every thread; empty pins nothing.
            folder: of local sockets, removed when the parent can no longer do it.

        All three are the leader's. A device on another machine has a follower for its parent, whose threads
        it inherited as they were pinned.
        """
        is_here = self.parallel_config.node_rank_within_dp == 0
        if is_here:
            pin_threads(tuple(cores))
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.model_runner.device.type == "cpu":
            spare_generators(self.model_runner)
        Finalize(None, _leave, exitpriority=_LAST)
        bond = (parent_pid, folder) if is_here else (os.getppid(), None)
        threading.Thread(target=_end_with_parent, args=bond, name="baton-parent", daemon=True).start()
        return WorkerFacts(
            pid=os.getpid(),
            kv_cache_bytes=sum(cache.nbytes for cache in self.model_runner.kv_caches),
            layout=group.layout() if (group := _connector()) is not None else "",
        )

    def baton_release(self, engine_request_ids: list[str]) -> None:
        """End leases early."""
        if (group := _connector()) is not None:
            group.release(engine_request_ids)

    def baton_held(self) -> list[str]:
        """List requests whose blocks may be leased."""
        return group.held() if (group := _connector()) is not None else []


def _connector() -> NixlConnector | None:
    group = get_kv_transfer_group() if has_kv_transfer_group() else None
    return group if isinstance(group, NixlConnector) else None


def _leave() -> None:
    # vLLM has torn its own things down by now. What would follow is the interpreter collecting torch's
    # modules: 3 to 5 s of computing, after which the parent loses patience and kills.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_with_parent(parent_pid: int, folder: str | None) -> None:
    # Multiprocessing ends daemons when their parent exits, not when it is killed: an orphaned engine
    # would keep its core, its memory and its port for ever.
    while _is_alive(parent_pid):
        time.sleep(_PARENT_LOOK_S)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
