"""The scheduler's part of checking handed-over KV; runs inside the engine process.

Comes in: requests whose parameters ask for fingerprints or carry some. Goes out: to the devices, which blocks
to fingerprint in the step that ends a prompt and what pulled blocks must look like; to the request's output,
the fingerprints. Invariant: fingerprints leave with the output of their own prefill or not at all; after a
difference no block is found in the prefix cache any more.
Written against vLLM 0.32. In one step its scheduler calls `build_connector_meta`, the devices compute,
`build_connector_worker_meta` is asked of each, then `request_finished` makes the output's parameters, and
`update_connector_output` comes last, before that output is sent: the parameters are completed there.
Not here: reading memory (`fingerprints`), comparing (`connector`).
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.utils import yield_req_data
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_scheduler import NixlPullConnectorScheduler
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.stats import NixlKVConnectorStats
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.outputs import KVConnectorOutput

from services.engine.vllm.settings import CHECKS_KEY, MATCHED_KEY, MISMATCHED_KEY, SAMPLE_KEY

if TYPE_CHECKING:
    from vllm.distributed.kv_transfer.kv_connector.utils import BlockIds
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request


Expected: TypeAlias = dict[int, tuple[int, ...]]
"""What the pulled blocks of one request must look like: by place in the prompt, one number per device."""


class CheckedMetadata(NixlConnectorMetadata):
    """What the scheduler tells the devices for one step."""

    def __init__(self, plain: KVConnectorMetadata) -> None:
        self.__dict__.update(plain.__dict__)
        self.fingerprint: dict[str, dict[int, int]] = {}
        """Prompts that end with this step: block id by place in the prompt."""
        self.expected: dict[str, Expected] = {}
        """Of pulls that begin with this step."""


@dataclass(slots=True, kw_only=True)
class DeviceReport(KVConnectorWorkerMetadata):
    """What the devices tell the scheduler after one step.

    Attributes:
        digests: of prompts that ended, by request, device rank and place in the prompt.
        differed: a pull brought other blocks than it should.
    """

    digests: dict[str, dict[int, dict[int, int]]] = field(default_factory=dict)
    differed: bool = False

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "DeviceReport":
        """Put the reports of two devices together."""
        if isinstance(other, DeviceReport):
            for request_id, ranks in other.digests.items():
                self.digests.setdefault(request_id, {}).update(ranks)
            self.differed = self.differed or other.differed
        return self


class CheckedStats(NixlKVConnectorStats):
    """vLLM's transfer statistics, which reach the front end with each step, and our results with them."""

    def reset(self) -> None:
        """Start anew."""
        super().reset()  # type: ignore[no-untyped-call]
        self.data |= {MATCHED_KEY: [], MISMATCHED_KEY: []}

    def record_check(self, request_id: str, *, matched: bool) -> None:
        """Note what comparing a pull's blocks found."""
        key = MATCHED_KEY if matched else MISMATCHED_KEY
        self.data[key].append(request_id)  # type: ignore[arg-type]  # vLLM's own are numbers

    def is_empty(self) -> bool:
        """Tell whether there is nothing to send."""
        return bool(super().is_empty()) and not self.data[MATCHED_KEY] and not self.data[MISMATCHED_KEY]


class CheckingScheduler(NixlPullConnectorScheduler):
    """vLLM's pull scheduler, which sees to it that blocks are fingerprinted and compared."""

    def __init__(self, vllm_config: VllmConfig, engine_id: str, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, engine_id, kv_cache_config)
        self.block_pool: BlockPool | None = None
        self._sampled: dict[str, Request] = {}
        self._block_ids: dict[str, list[int]] = {}
        self._finished: dict[str, dict[str, Any]] = {}

    def update_state_after_alloc(
        self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int
    ) -> None:
        """Note a prefill that asks for fingerprints.

        Of models with several cache groups (sliding windows, state spaces) nothing is fingerprinted: a place
        in the prompt names a block in each.
        """
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        params = request.kv_transfer_params
        asks = bool(params and params.get("do_remote_decode") and params.get(SAMPLE_KEY))
        if asks and len(self.kv_cache_config.kv_cache_groups) == 1:
            self._sampled[request.request_id] = request

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> CheckedMetadata:
        """Tell the devices what to fingerprint and what to expect."""
        expected = {
            request_id: found
            for request_id, (request, *_) in self._reqs_need_recv.items()
            if (found := _expected(request.kv_transfer_params)) is not None
        }
        meta = CheckedMetadata(super().build_connector_meta(scheduler_output))
        meta.expected = expected
        for request_id, new_block_ids, resumed in yield_req_data(scheduler_output):
            request = self._sampled.get(request_id)
            if request is None or request.kv_transfer_params is None:
                continue
            if resumed:
                self._block_ids.pop(request_id, None)
            known = self._block_ids.setdefault(request_id, [])
            if new_block_ids is not None:
                (new,) = new_block_ids
                known += new
            computed = request.num_computed_tokens + scheduler_output.num_scheduled_tokens[request_id]
            if computed >= request.num_prompt_tokens:
                sample: list[int] = request.kv_transfer_params[SAMPLE_KEY]
                meta.fingerprint[request_id] = {index: known[index] for index in sample if index < len(known)}
        return meta

    def request_finished(
        self, request: "Request", block_ids: "BlockIds"
    ) -> tuple[bool, dict[str, Any] | None]:
        """Keep the parameters of an output until its fingerprints are known."""
        keeps, params = super().request_finished(request, block_ids)
        self._block_ids.pop(request.request_id, None)
        if self._sampled.pop(request.request_id, None) is not None and keeps and params is not None:
            self._finished[request.request_id] = params
        return keeps, params

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """Complete the parameters of outputs of this step; forget the cache after a difference."""
        super().update_connector_output(connector_output)
        report = connector_output.kv_connector_worker_meta
        finished, self._finished = self._finished, {}
        if not isinstance(report, DeviceReport):
            return
        for request_id, ranks in report.digests.items():
            if request_id in finished:
                finished[request_id][CHECKS_KEY] = _by_block(ranks)
        if report.differed and self.block_pool is not None:
            # Whatever changed these blocks may have changed others that nobody compared. Blocks in use stay
            # with their requests, but nobody new finds them.
            self.block_pool.evict_blocks(set(range(self.block_pool.num_gpu_blocks)))


def _expected(params: "dict[str, Any] | None") -> Expected | None:
    if not params or not params.get(CHECKS_KEY):
        return None
    return {index: tuple(numbers) for index, numbers in params[CHECKS_KEY]}


def _by_block(ranks: dict[int, dict[int, int]]) -> list[list[Any]]:
    """Order fingerprints by block, then by device rank: [[place, [number per device]]]."""
    places = sorted(next(iter(ranks.values()), {}))
    return [[place, [ranks[rank][place] for rank in sorted(ranks)]] for place in places]
