"""Settings of the router.

Comes in: YAML through `services.runtime.settings`. Goes out: one frozen struct.
Invariant: every number has a unit in its name and a reason for its default; nothing is clamped.
"""

from typing import Annotated

import msgspec

from services.domain.placement import PathPreference
from services.domain.request import is_batch
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

    early_rejection: bool = True
    """Refuse at once what is predicted to miss its deadline, or to wait longer than the bounds below allow.
    Without it everything is let in, and beyond the capacity nearly everything is late."""

    burst_s: _Positive = 10.0
    """Time for which requests may be late or refused before it counts as overload. Until then it is a burst,
    which ends by itself, and the two factors below bound what waits; from then on the bounds are the targets
    themselves: more is refused, and what is let in is served in time. About as long as people wait."""

    wait_bound_factor: _Positive = 20.0
    """Longest predicted wait before a prompt is computed, in TTFT targets, during a burst: beyond it a worker
    counts as full. 20 of them are 10 s, the time for which people keep their attention on an answer
    (J. Nielsen, Usability Engineering, 1993): later, a refusal that names a better time is worth more."""

    tpot_bound_factor: _Positive = 2.0
    """Longest predicted time per token of a decode worker, in TPOT targets, during a burst: a request that
    would make it longer for everybody waits for room. 2 of them are 60 ms, about as fast as people read.
    Batch work only fills workers up to the target. An engine that misses the bound with one request alone
    is not measured by it."""

    miss_frac: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    """Share of the requests let in under overload that may miss their targets, half of it the one for TTFT,
    half the one for TPOT. The router learns how much of each target its predictions may use up for that. A
    tenth of what is served is little beside what a standing queue costs; keeping nearly all in time would
    refuse more than it saves. 1 lets predictions use up the whole target, however wrong they are."""

    not_ready_retry_s: _Positive = 2.0
    """What a client is told to wait when no worker is ready: nothing predicts the end of a start."""

    quarantine_s: _Positive = 5.0
    """How long a worker whose engine failed a request gets no other, unless it comes back as a new engine
    first. Several health checks: a dead engine is found by then, a living one is worth another try."""

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
    def wait_max_s(self) -> float:
        """Longest predicted wait before a prompt is computed, s."""
        return self.wait_bound_factor * self.ttft_target_s

    def step_max_s(self, priority: int, *, overload: bool) -> float:
        """Longest predicted time per token with a request of this priority in it, s."""
        strict = overload or is_batch(priority)
        return self.tpot_target_s * (1.0 if strict else self.tpot_bound_factor)

    @property
    def slo(self) -> Slo:
        """The two targets as one value."""
        return Slo(ttft_s=self.ttft_target_s, tpot_s=self.tpot_target_s)
