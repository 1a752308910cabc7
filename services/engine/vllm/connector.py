"""Our thin edge of vLLM's NIXL pull connector; runs inside the engine process.

vLLM loads it by module path. Comes in: what vLLM's own connector gets. Goes out: the same, with
1. a pause in NIXL's progress thread: the Python layer of nixl 1.5 hard-codes none, and the thread then
   spins at a whole core even when idle (switching the thread off makes late pulls hang);
2. leases that can be ended early by the holder (`release`);
3. a side channel whose address is given, not taken from the environment;
4. one engine id for all devices of an engine over several machines, each of which would make up its own;
5. fingerprints of a sample of the blocks: taken when a prompt ends, compared when its pull ends, before
   the scheduler hears of it. A difference is told as vLLM's own failed pull, so its blocks never enter
   the prefix cache and `kv_load_failure_policy` says what becomes of the request.
Invariant: blocks are given back exactly once, through the same return value that a pull's notice takes;
no token is computed from blocks that were found changed.
Written against vLLM 0.32 `kv_connector/v1/nixl`. The class keeps vLLM's name `NixlConnector`, because
vLLM compares that name where NIXL needs special care.
"""

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole, KVConnectorTransferResults
from vllm.distributed.kv_transfer.kv_connector.v1.nixl import connector as upstream
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_worker import NixlPullConnectorWorker
from vllm.distributed.nixl_utils import NixlWrapper
from vllm.distributed.parallel_state import get_inner_dp_world_group
from vllm.v1.kv_cache_interface import KVCacheConfig

from services.engine.vllm.checking import (
    CheckedMetadata,
    CheckedStats,
    CheckingScheduler,
    DeviceReport,
    Expected,
)
from services.engine.vllm.fingerprints import BlockFingerprints
from services.engine.vllm.settings import (
    PROGRESS_DELAY_KEY,
    SIDE_CHANNEL_HOST_KEY,
    SIDE_CHANNEL_PORT_KEY,
)

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool


class NixlConnector(upstream.NixlPullConnector):
    """vLLM's pull connector with our worker side."""

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        upstream.NixlBaseConnector.__init__(self, vllm_config, role, kv_cache_config)
        if role is KVConnectorRole.SCHEDULER:
            self.connector_scheduler = CheckingScheduler(vllm_config, self.engine_id, kv_cache_config)
            # vLLM reads these from the environment, which engines started by one process would share.
            extra = self.kv_transfer_config.kv_connector_extra_config
            self.connector_scheduler.side_channel_host = extra[SIDE_CHANNEL_HOST_KEY]
            self.connector_scheduler.side_channel_port = extra[SIDE_CHANNEL_PORT_KEY]
            return
        self.engine_id = _engine_id_of_the_leader(vllm_config, self.engine_id)
        with _progress_delay(self.kv_transfer_config.kv_connector_extra_config[PROGRESS_DELAY_KEY]):
            self.connector_worker = self.make_worker(vllm_config, kv_cache_config)

    def make_worker(self, vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> "PullWorker":
        """Make the worker side."""
        return PullWorker(vllm_config, self.engine_id, kv_cache_config)

    def bind_gpu_block_pool(self, gpu_block_pool: "BlockPool") -> None:
        """Take the scheduler's block pool, whose cache is forgotten after a difference."""
        if isinstance(self.connector_scheduler, CheckingScheduler):
            self.connector_scheduler.block_pool = gpu_block_pool

    def build_connector_worker_meta(self) -> DeviceReport | None:
        """Fingerprint what the step's metadata names; vLLM asks once per step, after the forward pass."""
        worker, meta = self.connector_worker, self._connector_metadata
        if not isinstance(worker, PullWorker) or not isinstance(meta, CheckedMetadata):
            return None
        return worker.report(meta)

    def release(self, engine_request_ids: Iterable[str]) -> None:
        """End leases early; ids without a lease are ignored."""
        if isinstance(self.connector_worker, PullWorker):
            self.connector_worker.release(engine_request_ids)

    def held(self) -> list[str]:
        """List the engine request ids whose blocks may be under a lease (or still being computed)."""
        return self.connector_worker.held() if isinstance(self.connector_worker, PullWorker) else []

    def layout(self) -> str:
        """Describe what must be equal on both sides of a pull."""
        worker = self.connector_worker
        return f"{worker.compat_hash}/{worker.kv_cache_layout}" if worker is not None else ""


class PullWorker(NixlPullConnectorWorker):
    """The worker side, whose holder can give up a lease and which knows its blocks again."""

    def __init__(self, vllm_config: VllmConfig, engine_id: str, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, engine_id, kv_cache_config)
        self.xfer_stats = self._statistics = CheckedStats()
        self._given_up: set[str] = set()
        self._expected: dict[str, tuple[Expected, dict[int, int]]] = {}
        self._fingerprints: BlockFingerprints | None = None
        self._differed = False

    def release(self, engine_request_ids: Iterable[str]) -> None:
        """Mark leases to end at the engine's next step (it steps while it holds any)."""
        self._given_up.update(engine_request_ids)

    def held(self) -> list[str]:
        """List requests that are leased, or about to be: vLLM arms the timer one step after the end."""
        return sorted({*self._reqs_to_send, *self._reqs_to_process})

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Take the caches in; only attention layers of one cache group are fingerprinted."""
        super().register_kv_caches(kv_caches)
        one_group = len(self.kv_cache_config.kv_cache_groups) == 1
        if one_group and all(isinstance(cache, torch.Tensor) for cache in kv_caches.values()):
            self._fingerprints = BlockFingerprints(
                (kv_caches[name] for name in sorted(kv_caches)),
                pages_per_block=self._physical_blocks_per_logical_kv_block,
            )

    def report(self, metadata: CheckedMetadata) -> DeviceReport | None:
        """Fingerprint prompts that end with this step; say whether a pull brought something else."""
        report = DeviceReport(differed=self._differed)
        self._differed = False
        for request_id, blocks in metadata.fingerprint.items():
            if self._fingerprints is not None and blocks:
                digests = self._fingerprints.of(list(blocks.values()))
                report.digests[request_id] = {self.tp_rank: dict(zip(blocks, digests, strict=True))}
        return report if report.digests or report.differed else None

    def start_load_kv(self, metadata: NixlConnectorMetadata) -> None:
        """Begin pulls; note what their blocks must look like."""
        if isinstance(metadata, CheckedMetadata) and self._fingerprints is not None:
            for request_id, expected in metadata.expected.items():
                meta = metadata.reqs_to_recv[request_id]
                if meta.awaiting_kvs and len(meta.local_block_ids) == 1:
                    # Blocks that the prefix cache holds already are not pulled, and need not be equal bit by
                    # bit: another batch rounds differently.
                    pulled = enumerate(meta.local_block_ids[0], start=meta.local_num_computed_blocks[0])
                    self._expected[request_id] = (expected, dict(pulled))
        super().start_load_kv(metadata)

    def get_transfer_results(self) -> KVConnectorTransferResults:
        """Tell ended pulls; one that brought other blocks than it should is told as failed."""
        results = super().get_transfer_results()
        for request_id in results.finished_recving:
            expected, block_ids = self._expected.pop(request_id, (None, {}))
            if expected is None or request_id in results.failed_recving:
                continue
            matched = self._matches(expected, block_ids)
            if matched is None:
                continue
            self._statistics.record_check(request_id, matched=matched)
            if not matched:
                self._differed = True
                results.failed_recving.add(request_id)
                self._invalid_block_ids.put(set(block_ids.values()))
        return results

    def _matches(self, expected: Expected, block_ids: dict[int, int]) -> bool | None:
        """Compare this device's part of the pulled blocks; None when none of the sample was pulled."""
        pulled = {block_ids[index]: numbers for index, numbers in expected.items() if index in block_ids}
        if self._fingerprints is None or not pulled:
            return None
        found = self._fingerprints.of(list(pulled))
        return all(
            self.tp_rank < len(numbers) and number == numbers[self.tp_rank]
            for number, numbers in zip(found, pulled.values(), strict=True)
        )

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


def _engine_id_of_the_leader(vllm_config: VllmConfig, own: str) -> str:
    """Take the id that the first device has, whose machine also runs the scheduler that writes tickets.

    vLLM makes a random id per process tree (`KVTransferConfig.__post_init__`), and a pull refuses a device
    whose id is not that of the ticket. All devices get here together, in a collective call.
    """
    if vllm_config.parallel_config.nnodes_within_dp == 1:
        return own
    shared: str = get_inner_dp_world_group().broadcast_object(own, src=0)
    return shared


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
