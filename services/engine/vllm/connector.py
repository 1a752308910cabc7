"""Our thin edge of vLLM's NIXL pull connector; runs inside the engine process.

vLLM loads it by module path. Comes in: what vLLM's own connector gets. Goes out: the same, with
1. a pause in NIXL's progress thread: the Python layer of nixl 1.5 hard-codes none, and the thread then
   spins at a whole core even when idle (switching the thread off makes late pulls hang);
2. leases that can be ended early by the holder (`release`);
3. a side channel whose address is given, not taken from the environment.
Invariant: blocks are given back exactly once, through the same return value that a pull's notice takes.
Written against vLLM 0.32 `kv_connector/v1/nixl`. The class keeps vLLM's name `NixlConnector`, because
vLLM compares that name where NIXL needs special care.
"""

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.nixl import connector as upstream
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_scheduler import NixlPullConnectorScheduler
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_worker import NixlPullConnectorWorker
from vllm.distributed.nixl_utils import NixlWrapper
from vllm.v1.kv_cache_interface import KVCacheConfig

from services.engine.vllm.settings import PROGRESS_DELAY_KEY, SIDE_CHANNEL_HOST_KEY, SIDE_CHANNEL_PORT_KEY


class NixlConnector(upstream.NixlPullConnector):
    """vLLM's pull connector with our worker side."""

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        upstream.NixlBaseConnector.__init__(self, vllm_config, role, kv_cache_config)
        if role is KVConnectorRole.SCHEDULER:
            self.connector_scheduler = NixlPullConnectorScheduler(
                vllm_config, self.engine_id, kv_cache_config
            )
            # vLLM reads these from the environment, which engines started by one process would share.
            extra = self.kv_transfer_config.kv_connector_extra_config
            self.connector_scheduler.side_channel_host = extra[SIDE_CHANNEL_HOST_KEY]
            self.connector_scheduler.side_channel_port = extra[SIDE_CHANNEL_PORT_KEY]
            return
        with _progress_delay(self.kv_transfer_config.kv_connector_extra_config[PROGRESS_DELAY_KEY]):
            self.connector_worker = LeasingWorker(vllm_config, self.engine_id, kv_cache_config)

    def release(self, engine_request_ids: Iterable[str]) -> None:
        """End leases early; ids without a lease are ignored."""
        if isinstance(self.connector_worker, LeasingWorker):
            self.connector_worker.release(engine_request_ids)

    def held(self) -> list[str]:
        """List the engine request ids whose blocks may be under a lease (or still being computed)."""
        return self.connector_worker.held() if isinstance(self.connector_worker, LeasingWorker) else []

    def layout(self) -> str:
        """Describe what must be equal on both sides of a pull."""
        worker = self.connector_worker
        return f"{worker.compat_hash}/{worker.kv_cache_layout}" if worker is not None else ""


class LeasingWorker(NixlPullConnectorWorker):
    """The worker side, whose holder can give up a lease."""

    def __init__(self, vllm_config: VllmConfig, engine_id: str, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, engine_id, kv_cache_config)
        self._given_up: set[str] = set()

    def release(self, engine_request_ids: Iterable[str]) -> None:
        """Mark leases to end at the engine's next step (it steps while it holds any)."""
        self._given_up.update(engine_request_ids)

    def held(self) -> list[str]:
        """List requests that are leased, or about to be: vLLM arms the timer one step after the end."""
        return sorted({*self._reqs_to_send, *self._reqs_to_process})

    def _get_new_notifs(self) -> set[str]:
        """Add leases given up here to those whose blocks were pulled.

        A request that still runs has no timer yet; its mark waits. Reporting it now would free blocks
        under a running request, reporting an unknown one stops the scheduler.
        """
        done: set[str] = super()._get_new_notifs()
        for request_id in tuple(self._given_up):
            if request_id in self._reqs_to_send and request_id not in done:
                del self._reqs_to_send[request_id]
                self._reqs_to_process.discard(request_id)
                done.add(request_id)
            if request_id not in self._reqs_to_process:
                self._given_up.discard(request_id)
        return done


@contextmanager
def _progress_delay(delay_us: int) -> Iterator[None]:
    """Let agents made inside pause their progress thread between polls.

    nixl 1.5 `_api.py` writes `pthrDelay = 0` into the agent's configuration; the configuration class is
    exchanged for one that ignores this one write.
    """
    api = importlib.import_module(NixlWrapper.__module__)  # nixl_cu12 or nixl_cu13, whichever is loaded
    plain = api.nixlBind.nixlAgentConfig

    class PausingConfig(plain):  # type: ignore[misc, valid-type]  # the binding carries no types
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, delay_us if name == "pthrDelay" else value)

    api.nixlBind.nixlAgentConfig = PausingConfig
    try:
        yield
    finally:
        api.nixlBind.nixlAgentConfig = plain
