"""Who leads, decided from what is read in a lease.

Comes in: what the lease said, when this process first read it, when this process last wrote it. Goes out:
whether to take it, and until when to act. Invariant: two holders never act at once, as long as no clock runs
`lease_s / renew_within_s` times as fast as another. Not here: reading and writing the lease (`leadership`).

The semantics are those of client-go's leader election: times in the lease are other machines' and are only
compared for change; a lease that did not change for its duration, by one's own clock, is free.
"""

from dataclasses import dataclass

from planner.targets.kubernetes.objects import LeaseSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A lease as one candidate sees it.

    Attributes:
        spec: what it says.
        since_s: when it was first seen to say so, by the candidate's clock.
    """

    spec: LeaseSpec
    since_s: float

    @property
    def holder(self) -> str:
        """Who holds it; empty when nobody does."""
        return self.spec.holder_identity or ""


def fold(before: Sighting | None, spec: LeaseSpec, now_s: float) -> Sighting:
    """Fold a reading into what is known; a lease that says the same as before only grows older."""
    if before is not None and before.spec == spec:
        return before
    return Sighting(spec=spec, since_s=now_s)


def may_take(seen: Sighting, identity: str, now_s: float) -> bool:
    """Tell whether a candidate may write itself into the lease: it is free, its own, or ran out."""
    if seen.holder in ("", identity):
        return True
    return now_s >= seen.since_s + (seen.spec.lease_duration_seconds or 0)


def acts_until_s(renewed_s: float, renew_within_s: float) -> float:
    """Say until when a holder acts.

    Args:
        renewed_s: when the request that last renewed the lease was sent, before anybody could read it.
        renew_within_s: time in which a renewal must succeed; less than the lease's duration.
    """
    return renewed_s + renew_within_s
