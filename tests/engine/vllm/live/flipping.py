"""Our connector with a transport that changes blocks on their way, when a file says so.

Loaded by vLLM in the engine process of the rig's decode engine. The environment names the file; its text is
the place of the block, among those that a pull moves, to be changed. One file changes one pull.
"""

import os
from pathlib import Path

from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import KVCacheConfig

from services.domain.blocks import blocks_for
from services.engine.vllm import connector
from services.engine.vllm.connector import PullWorker
from tests.engine.vllm.live.rig import FLIP_ORDER


class NixlConnector(connector.NixlConnector):
    """The connector under test; vLLM compares its name."""

    def make_worker(self, vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> PullWorker:
        """Make the worker whose transport is bad."""
        return FlippingWorker(vllm_config, self.engine_id, kv_cache_config)


class FlippingWorker(PullWorker):
    """Changes a block after the transfer wrote it and before anybody looks at it."""

    def _pop_done_transfers(self, transfers: dict[str, list[int]]) -> tuple[set[str], set[str]]:
        done, failed = super()._pop_done_transfers(transfers)
        order = Path(os.environ[FLIP_ORDER])
        for request_id in sorted(done - failed):
            if order.exists():
                place = int(order.read_text())
                order.unlink()
                meta = self._recving_metadata[request_id]
                assert meta.remote is not None
                # Behind the prompt's blocks there may be one that stands for a block without KV.
                prompt_blocks = blocks_for(meta.remote.num_tokens or 0, self.block_size)
                block = meta.local_block_ids[0][: prompt_blocks - meta.local_num_computed_blocks[0]][place]
                for cache in self.device_kv_caches.values():
                    cache[block].neg_().add_(1.0)
        return done, failed
