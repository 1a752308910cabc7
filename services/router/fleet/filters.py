"""Who may be chosen at all.

Comes in: a worker's view and what a request needs. Goes out: None, or why not, for a person.
Invariant: a filter looks at one worker and the need, nothing else; each has a name and one reason.
Model and phase are not among them: `FleetView.serving` gives only workers of both.
Not here: what a choice costs (`services.router.fleet.prices`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from services.domain.ids import WorkerId
from services.router.fleet.worker_view import WorkerView


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a request asks of one worker.

    Attributes:
        tokens: KV tokens the worker would come to hold for it.
        avoid: workers that failed the request before.
        now_s: moment to which statuses have aged.
        stale_after_s: age up to which a status is trusted.
        compatibility: layout of KV that exists already; None when there is none yet.
    """

    tokens: int
    avoid: frozenset[WorkerId]
    now_s: float
    stale_after_s: float
    compatibility: str | None = None


Filter = Callable[[WorkerView, Need], str | None]


def ready(view: WorkerView, need: Need) -> str | None:
    """Only a ready worker takes new work."""
    del need
    return None if view.ready else f"is {view.status.lifecycle}"


def fresh(view: WorkerView, need: Need) -> str | None:
    """A worker that fell silent may be gone."""
    age_s = need.now_s - view.seen_at_s
    return None if age_s <= need.stale_after_s else f"has been silent for {age_s:.1f} s"


def not_avoided(view: WorkerView, need: Need) -> str | None:
    """A worker that failed this request is not asked again."""
    return "failed this request before" if view.worker_id in need.avoid else None


def fits_context(view: WorkerView, need: Need) -> str | None:
    """Prompt and output must fit the model's context."""
    limit = view.limits.context_tokens_max
    return None if need.tokens <= limit else f"{need.tokens} tokens exceed its context of {limit}"


def fits_memory(view: WorkerView, need: Need) -> str | None:
    """The KV memory must hold the request when nothing else is in it."""
    limits = view.limits
    limit = limits.kv_blocks * limits.block_size_tokens
    return None if need.tokens <= limit else f"{need.tokens} tokens exceed its KV memory of {limit}"


def compatible(view: WorkerView, need: Need) -> str | None:
    """KV is readable only by an engine of the same kind, version and layout."""
    own = view.limits.compatibility
    if need.compatibility is None or need.compatibility == own:
        return None
    return f"cannot read KV of {need.compatibility!r}, it is {own!r}"


FILTERS_OF_WORKER: dict[str, Filter] = {"ready": ready, "fresh": fresh, "not_avoided": not_avoided}
"""Differ from worker to worker."""

FILTERS_OF_ENGINE: dict[str, Filter] = {
    "fits_context": fits_context,
    "fits_memory": fits_memory,
    "compatible": compatible,
}
"""Equal for workers of equal limits, so asked once for all of them."""
