"""Settings of the router.

Comes in: YAML through `services.runtime.settings`. Goes out: one frozen struct.
Invariant: every number has a unit in its name and a reason for its default; nothing is clamped.
"""

from typing import Annotated

import msgspec

from services.domain.placement import PathPreference
from services.domain.slo import Slo

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the router decides and what it remembers."""

    ttft_target_s: _Positive = 0.5
    """Gateway accept to first token. Interactive target of MLPerf Inference 5.1 (Llama 2 70B: 450 ms)."""

    tpot_target_s: _Positive = 0.03
    """Per output token. A running request is harmed only by what a step takes beyond it. 30 ms is about
    twice as fast as people read, and near the interactive target of MLPerf Inference 5.1 (40 ms)."""

    preference: PathPreference = PathPreference.AUTO
    """Path taken by requests that ask for none; `auto` compares predicted cost."""

    stale_after_s: _Positive = 2.0
    """Age at which a worker's status is trusted only when no younger one is left: several missed
    renewals, since workers publish a few times a second."""

    forget_after_s: _Positive = 30.0
    """Age at which a worker is taken out of the view. Long enough to live through a restarting bus
    server, short enough that addresses of replaced workers do not pile up."""

    placement_settle_s: _Positive = 0.1
    """Time after which a placement is taken to show in a status or queue reading that arrives. Several
    message delays; too long counts load twice for a moment, too short forgets it for a moment."""

    placements_max: _Count = 65_536
    """Placements remembered because no status shows them yet; the oldest goes first. At 20,000 requests
    a second this is three seconds, more than any status takes."""

    wait_max_s: _Positive = 30.0
    """Predicted wait beyond which a worker counts as full; when all are, the request is rejected with
    the time after which to try again. Longer than this, most clients have given up."""

    not_ready_retry_s: _Positive = 2.0
    """What a client is told to wait when no worker is ready: nothing predicts the end of a start."""

    workers_max: _Count = 4096
    """Workers held in the view; more are ignored and counted. A bound against a broken publisher."""

    candidates_kept: _Count = 16
    """Candidates kept in a decision's record, best first. Making the record of a hundred would cost more
    than the decision, and a gateway keeps many records."""

    index_slack_frac: Annotated[float, msgspec.Meta(ge=0)] = 0.05
    """Blocks that the index holds of a worker beyond its announced capacity, as a share of it: room for
    events whose removal is a batch later."""

    index_batches_waiting_max: _Count = 256
    """KV event batches kept per worker while its snapshot is fetched; the oldest goes first."""

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        if self.forget_after_s < self.stale_after_s:
            raise ValueError("forget_after_s must not be smaller than stale_after_s")

    @property
    def slo(self) -> Slo:
        """The two targets as one value."""
        return Slo(ttft_s=self.ttft_target_s, tpot_s=self.tpot_target_s)
