"""Why a request cannot be placed, as the error its client will see.

Comes in: the exclusions of a decision that found nothing. Goes out: one `Rejected` value.
Invariant: a request is refused for good (unknown, too long) only when no worker known could ever serve
it; otherwise the refusal says after which time to try again. Not here: raising it (the gateway does).
"""

from collections.abc import Sequence

from services.domain.errors import ContextTooLong, NotReady, Rejected, Saturated, UnknownModel
from services.domain.placement import DecodeQuery, PlacementQuery
from services.domain.worker import Phase
from services.router.fleet import FleetView, WorkerView
from services.router.settings import RouterSettings


def refuse(
    query: PlacementQuery | DecodeQuery,
    *,
    fleet: FleetView,
    settings: RouterSettings,
    waits_s: Sequence[float],
    excluded: Sequence[tuple[WorkerView, str]],
) -> Rejected:
    """Name the reason for which nothing could be chosen.

    Args:
        query: what was to be placed.
        fleet: workers as known now.
        settings: limits.
        waits_s: predicted waits of workers that could serve it but too late.
        excluded: workers that cannot serve it now, with reasons.
    """
    model = query.scope.model
    if waits_s:
        least_s = min(waits_s)
        return Saturated(
            message=f"every worker of {model!r} is full: the shortest wait is {least_s:.1f} s, "
            f"longer than {settings.wait_max_s:g} s",
            retry_after_s=least_s - settings.wait_max_s,
        )
    decoders = fleet.serving(model, Phase.DECODE)
    if not decoders and len(fleet) and not fleet.serving(model, Phase.PREFILL):
        known = ", ".join(fleet.models())
        return UnknownModel(message=f"no worker serves {model!r}; served are: {known}", model=model)
    too_long = _too_long(query, decoders)
    if too_long is not None:
        return too_long
    why = "; ".join(sorted({f"{view.worker_id} {why}" for view, why in excluded})[:4])
    return NotReady(
        message=f"no worker of {model!r} can take work now: {why or 'none that decodes is known'}",
        retry_after_s=settings.not_ready_retry_s,
    )


def _too_long(query: PlacementQuery | DecodeQuery, decoders: Sequence[WorkerView]) -> ContextTooLong | None:
    tokens = query.prompt_tokens if isinstance(query, PlacementQuery) else query.context_tokens
    limit = max((view.holds_tokens_max for view in decoders), default=None)
    if limit is None or tokens + query.output_tokens_max <= limit:
        return None
    return ContextTooLong(
        message=f"{tokens} tokens and {query.output_tokens_max} to generate exceed the limit of {limit}",
        prompt_tokens=tokens,
        limit_tokens=limit,
    )
