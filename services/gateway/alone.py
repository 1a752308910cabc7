"""What an idle worker would have given an ended request: whether its targets could be met at all.

Comes in: a request's record, the workers that took it. Goes out: times, and the same as metrics beside the
times that came. Invariant: never longer than what came, since what came was possible.
Not here: the targets (whoever reads the metrics has them), what follows from it (`planner`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from services.domain.ids import WorkerId
from services.domain.worker import WorkerStatus
from services.gateway.port import RequestRecord
from services.runtime.metrics import Meters

StatusOf = Callable[[WorkerId], WorkerStatus | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """Times of one request on workers that have nothing else to do.

    Attributes:
        ttft_s: to prefill what had to be computed of its prompt; None where no first token came.
        tpot_s: of a step with this sequence only; None where no second token came.
    """

    ttft_s: float | None
    tpot_s: float | None


def alone(record: RequestRecord, status_of: StatusOf) -> Alone:
    """Say how quick a request could have been on the very workers that took it.

    A worker that is gone tells nothing: 0, so that nobody takes for impossible what was only late.

    Args:
        record: of the request.
        status_of: looks a worker up.
    """
    ttft_s, tpot_s, placement = record.timeline.ttft_s, record.timeline.tpot_s, record.placement
    if placement is None:
        return Alone(ttft_s=ttft_s, tpot_s=tpot_s)
    if ttft_s is not None:
        reader = status_of(placement.worker_id if record.handoff is None else record.handoff.worker_id)
        ttft_s = min(ttft_s, _prompt_s(record, reader))
    if tpot_s is not None:
        decoder = record.decode_placement
        writer = status_of(placement.worker_id if decoder is None else decoder.worker_id)
        tpot_s = min(tpot_s, _step_s(record, writer))
    return Alone(ttft_s=ttft_s, tpot_s=tpot_s)


def measure_alone(record: RequestRecord, status_of: StatusOf, meters: Meters) -> None:
    """Observe it, once for each time that is observed of the request itself."""
    found = alone(record, status_of)
    if found.ttft_s is not None:
        meters.observe("baton_ttft_alone_seconds", found.ttft_s)
    if found.tpot_s is not None:
        meters.observe("baton_tpot_alone_seconds", found.tpot_s)


def _prompt_s(record: RequestRecord, reader: WorkerStatus | None) -> float:
    if reader is None or record.prompt_tokens < 1:
        return 0.0
    return reader.performance.prompt_s(
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens or 0,
        step_tokens_max=reader.limits.step_tokens_max,
    )


def _step_s(record: RequestRecord, writer: WorkerStatus | None) -> float:
    if writer is None:
        return 0.0
    context_tokens = record.prompt_tokens + record.output_tokens // 2
    return writer.performance.decode_s(sequence_count=1, context_tokens=context_tokens)
