"""One call per engine step: gathers what vLLM hands out request by request.

Comes in: outputs, put by vLLM's output handler into one collector per request. Goes out: one list per
engine step, what comparing pulled blocks found in it, what pulls moved. Invariant: nothing is merged, dropped
or reordered; the list is handed on when vLLM calls the stat logger, which it does once after each step's
outputs (vLLM 0.32 `AsyncLLM._run_output_handler`).
Not here: what an output means (`jobs`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm import PoolingRequestOutput, RequestOutput
from vllm.config import VllmConfig
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.output_processor import RequestOutputCollector
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats

from services.engine.port import KvPulled
from services.engine.vllm.jobs import RunningJob
from services.engine.vllm.pulls import read_pulled
from services.engine.vllm.settings import MATCHED_KEY, MISMATCHED_KEY

Outcome = tuple[RunningJob, RequestOutput]


@dataclass(slots=True, kw_only=True)
class StepGatherer:
    """Outputs since the last step boundary.

    Attributes:
        on_step: takes the outputs of one engine step, in vLLM's order, by engine request id whether pulled
            blocks matched, and what pulls that ended moved.
        on_error: takes an engine failure as soon as vLLM tells it to a request.
        kv_usage_frac: share of the KV cache in use at the last step, in [0, 1].
    """

    on_step: Callable[[list[Outcome], Mapping[str, bool], KvPulled | None], None]
    on_error: Callable[[Exception], None]
    kv_usage_frac: float = 0.0
    _gathered: list[Outcome] = field(default_factory=list)

    def collector(self, running: RunningJob) -> RequestOutputCollector:
        """Make the collector that vLLM puts one request's outputs into."""
        return _JobCollector(running, self)

    def stat_logger(self, vllm_config: VllmConfig, engine_index: int = 0) -> StatLoggerBase:
        """Make the logger that marks step boundaries; a `StatLoggerFactory`."""
        return _StepMark(vllm_config, engine_index, gatherer=self)

    def put(self, running: RunningJob, output: RequestOutput | PoolingRequestOutput | Exception) -> None:
        """Take one output of the present step."""
        if isinstance(output, RequestOutput):
            self._gathered.append((running, output))
        elif isinstance(output, Exception):
            self.on_error(output)

    def end_step(self, stats: SchedulerStats | None) -> None:
        """Hand on what the step brought."""
        if stats is not None:
            self.kv_usage_frac = stats.kv_cache_usage
        gathered, self._gathered = self._gathered, []
        told = None if stats is None else stats.kv_connector_stats
        checks, pulled = read_checks(told), read_pulled(told)
        if gathered or checks or pulled:
            self.on_step(gathered, checks, pulled)


def read_checks(statistics: Mapping[str, Any] | None) -> dict[str, bool]:
    """Read what our connector put into vLLM's connector statistics of one step.

    Args:
        statistics: lists by name; of several devices the lists follow one another.

    Returns:
        Whether the pulled blocks matched, by engine request id; one device's difference outweighs the others.
    """
    if not statistics:
        return {}
    return {
        engine_request_id: matched
        for key, matched in ((MATCHED_KEY, True), (MISMATCHED_KEY, False))
        for engine_request_id in statistics.get(key, ())
    }


class _JobCollector(RequestOutputCollector):
    """Passes outputs on instead of keeping them for a reader."""

    def __init__(self, running: RunningJob, gatherer: StepGatherer) -> None:
        super().__init__(RequestOutputKind.DELTA, running.engine_request_id)
        self._running = running
        self._gatherer = gatherer

    def put(self, output: RequestOutput | PoolingRequestOutput | Exception) -> None:
        self._gatherer.put(self._running, output)


class _StepMark(StatLoggerBase):
    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0, *, gatherer: StepGatherer) -> None:
        del vllm_config, engine_index
        self._gatherer = gatherer

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        del iteration_stats, mm_cache_stats, engine_idx
        self._gatherer.end_step(scheduler_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to say; vLLM asks every logger."""
