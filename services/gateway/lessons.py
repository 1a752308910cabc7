"""What an ended request teaches the router of this gateway.

Comes in: its record. Goes out: folds into the router's memory of caches, lengths and misses; the
margins as a metric. Invariant: each request teaches once; of one that left its way for another, only the
length counts, since what was promised of the first way says nothing of the last.
Not here: what the router makes of it (`services.router`).
"""

import logging

from services.domain.request import is_batch
from services.domain.stream import FinishReason
from services.domain.timeline import Mark
from services.gateway.port import RequestRecord
from services.router.learning.misses import Outcome
from services.router.router import Router
from services.runtime.metrics import Meters

log = logging.getLogger(__name__)


class Lessons:
    """Teaches one router."""

    def __init__(self, router: Router, meters: Meters) -> None:
        self._router = router
        self._meters = meters

    def learn(self, record: RequestRecord, *, priority: int) -> None:
        """Take an ended request.

        Args:
            record: of it.
            priority: of it; targets are those of interactive work.
        """
        self._router.lengths.fold(
            record.model, record.output_tokens, complete=record.finish is FinishReason.STOP
        )
        if record.fallbacks:
            return
        self._check_promise(record)
        if not is_batch(priority):
            self._judge_prediction(record)

    def _check_promise(self, record: RequestRecord) -> None:
        """Hold what the index promised of a worker's cache against what its engine reused."""
        if record.placement is None or record.cached_tokens is None:
            return
        computed_by = record.placement.worker_id if record.handoff is None else record.handoff.worker_id
        if computed_by != record.placement.worker_id:
            return
        wrong = self._router.fold_hit(
            computed_by,
            promised_blocks=record.placement.overlap_blocks,
            reused_tokens=record.cached_tokens,
        )
        if wrong is not None:
            log.warning("the index of %s is wrong, it is fetched anew: %s", computed_by, wrong)

    def _judge_prediction(self, record: RequestRecord) -> None:
        """Hold the times that a request was let in for under overload against those that came."""
        placement, times = record.placement, record.timeline
        placed_s = times.at_s(Mark.PLACED)
        if placement is None or placement.margins is None or placed_s is None:
            return
        outcome = Outcome(
            margins=placement.margins,
            predicted_ttft_s=placed_s + placement.predicted_ttft_s,
            predicted_tpot_s=placement.predicted_tpot_s,
            ttft_s=self._ttft_s(record),
            tpot_s=times.tpot_s,
        )
        self._router.misses.fold(record.model, outcome)
        margins = self._router.misses.margins(record.model)
        for target, share in (("ttft", margins.ttft_frac), ("tpot", margins.tpot_frac)):
            self._meters.set("baton_admission_margin_ratio", share, model=record.model, target=target)

    def _ttft_s(self, record: RequestRecord) -> float | None:
        """Time to the first token; without one the time it was waited for, once that is too long."""
        waited_s = record.timeline.at_s(Mark.ENDED)
        if record.timeline.ttft_s is not None or waited_s is None:
            return record.timeline.ttft_s
        return waited_s if waited_s > self._router.settings.ttft_target_s else None
