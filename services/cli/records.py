"""A request's record as the gateway's JSON gives it, as far as it is told to a person.

Comes in: JSON. Goes out: structs. All times are seconds, on the timeline since accept.
"""

import msgspec


class CandidateRecord(msgspec.Struct):
    """One way that was looked at."""

    path: str
    worker_id: str
    overlap_blocks: int
    uncached_tokens: int
    wait_s: float
    prefill_s: float
    transfer_s: float
    ttft_s: float
    harm_s: float
    cost_s: float
    excluded: str | None = None


class MarginsRecord(msgspec.Struct):
    """How much of each target predictions were allowed to use up."""

    ttft_frac: float
    tpot_frac: float


class PlacementRecord(msgspec.Struct):
    """The decision."""

    path: str
    worker_id: str
    overlap_blocks: int
    predicted_ttft_s: float
    reason: str
    candidates: list[CandidateRecord]
    predicted_tpot_s: float = 0.0
    margins: MarginsRecord | None = None


class TicketRecord(msgspec.Struct):
    """What was handed over."""

    prefill_worker_id: str
    block_count: int
    block_size_tokens: int
    kv_bytes: int
    lease_s: float


class HandoffRecord(msgspec.Struct):
    """The end of a remote prefill."""

    worker_id: str
    waited_s: float
    prefill_s: float
    ticket: TicketRecord | None = None


class DecodeRecord(msgspec.Struct):
    """Who went on."""

    worker_id: str
    reason: str


class TimelineRecord(msgspec.Struct):
    """What happened when."""

    marks: list[tuple[str, float]]
    output_tokens: int


class Record(msgspec.Struct):
    """What `/baton/v1/requests/ID` answers, as far as the story needs it."""

    request_id: str
    model: str
    prompt_tokens: int
    output_tokens: int
    timeline: TimelineRecord
    first_token_early: bool
    fallbacks: list[str]
    cached_tokens: int | None = None
    placement: PlacementRecord | None = None
    handoff: HandoffRecord | None = None
    decode_placement: DecodeRecord | None = None
    finish: str | None = None
    error: tuple[str, str] | None = None
    accepted_s: float = 0.0
    prefix_ids: list[int] = []

    def at_s(self, mark: str) -> float | None:
        """Seconds from accept to a moment."""
        return next((at for name, at in self.timeline.marks if name == mark), None)

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first."""
        first, last = self.at_s("first_token"), self.at_s("last_token")
        if first is None or last is None or self.output_tokens < 2:
            return None
        return (last - first) / (self.output_tokens - 1)
