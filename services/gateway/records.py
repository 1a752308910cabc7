"""The records of ended requests: kept for `baton explain`, measured once for the metrics.

Comes in: one record per ended request. Goes out: the same by id, and observations.
Invariant: at most `records_max` are kept; the oldest goes first.
"""

from collections import OrderedDict
from collections.abc import Sequence

from services.domain.blocks import BlockHash
from services.domain.ids import RequestId
from services.domain.timeline import Mark
from services.gateway.port import RequestRecord
from services.runtime.metrics import Meters

PREFIX_STEP_TOKENS = 512
"""Tokens per prefix id: what public traces use, so that records read as one."""
PREFIX_IDS_MAX = 256
"""Prefix ids kept of a prompt: 131,072 tokens of it, 1 KB as the gateway's JSON gives them."""
PREFIX_ID_MASK = 0xFFFF_FFFF
"""32 bits: exact in every reader of JSON, and two prompts are compared only behind equal beginnings."""


def prefix_ids(hashes: Sequence[BlockHash], block_size_tokens: int) -> tuple[int, ...]:
    """Name what a prompt shares with others, in the few numbers that a record keeps.

    Args:
        hashes: shape [full blocks of the prompt].
        block_size_tokens: tokens per block.

    Returns:
        One id per whole PREFIX_STEP_TOKENS, at most PREFIX_IDS_MAX; none when no block ends there.
    """
    if PREFIX_STEP_TOKENS % block_size_tokens:
        return ()
    step = PREFIX_STEP_TOKENS // block_size_tokens
    return tuple(block & PREFIX_ID_MASK for block in hashes[step - 1 :: step][:PREFIX_IDS_MAX])


class RecordBook:
    """Ended requests of one gateway."""

    def __init__(self, records_max: int, meters: Meters) -> None:
        self._records_max = records_max
        self._meters = meters
        self._records: OrderedDict[RequestId, RequestRecord] = OrderedDict()

    def add(self, record: RequestRecord) -> None:
        """Keep and measure an ended request."""
        self._records[record.request_id] = record
        self._records.move_to_end(record.request_id)
        while len(self._records) > self._records_max:
            self._records.popitem(last=False)
        self._measure(record)

    def get(self, request_id: RequestId) -> RequestRecord | None:
        """One record, or None when it was never here or is forgotten."""
        return self._records.get(request_id)

    def recent(self) -> tuple[RequestRecord, ...]:
        """All records kept, newest first."""
        return tuple(reversed(self._records.values()))

    def _measure(self, record: RequestRecord) -> None:
        meters, times = self._meters, record.timeline
        meters.observe("baton_prompt_length_tokens", record.prompt_tokens)
        meters.count("baton_prompt_tokens_total", record.prompt_tokens)
        meters.count("baton_cached_tokens_total", record.cached_tokens or 0)
        meters.count("baton_output_tokens_total", record.output_tokens)
        for name, value in (
            ("baton_ttft_seconds", times.ttft_s),
            ("baton_tpot_seconds", times.tpot_s),
            ("baton_e2e_seconds", times.at_s(Mark.ENDED)),
        ):
            if value is not None:
                meters.observe(name, value)
        self._measure_prediction(record)

    def _measure_prediction(self, record: RequestRecord) -> None:
        """Hold the prediction against what came; it begins with the decision, not with accept."""
        placement = record.placement
        placed_s, ttft_s = record.timeline.at_s(Mark.PLACED), record.timeline.ttft_s
        if placement is None or placed_s is None or ttft_s is None or record.fallbacks:
            return
        if placement.predicted_ttft_s > 0:
            ratio = (ttft_s - placed_s) / placement.predicted_ttft_s
            self._meters.observe("baton_ttft_over_predicted_ratio", ratio, path=placement.path.value)
