"""Why a request cannot be placed, as the error its client will see.

Comes in: the exclusions of a decision that found nothing, and ways that exist and would not do.
Goes out: one `Rejected` value, with the time after which the work now ahead lets a try succeed.
Invariant: a request is refused for good (unknown, too long) only when no worker known could ever serve
it; otherwise the refusal says after which time to try again. Not here: raising it (the gateway does).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.domain.errors import (
    ContextTooLong,
    DeadlineUnmeetable,
    NotReady,
    Rejected,
    Saturated,
    UnknownModel,
)
from services.domain.placement import DecodeQuery, PlacementQuery
from services.domain.worker import Phase
from services.router.fleet.fleet_view import FleetView
from services.router.fleet.worker_view import WorkerView
from services.router.settings import RouterSettings


class Bar(StrEnum):
    """What is wrong with a way that exists."""

    LATE = "late"
    """The prompt would wait longer than allowed."""
    DEADLINE = "deadline"
    """The answer would end after its deadline."""
    FULL = "full"
    """Decode has no room yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Barred:
    """A way that exists and would not do.

    Attributes:
        bar: what is wrong with it.
        wait_s: predicted wait, time until there is room included.
        wait_max_s: longest wait allowed from now on; below 0 when it has waited too long already.
        room_s: predicted time until decode has room.
        predicted_s: predicted time until the last token.
    """

    bar: Bar
    wait_s: float
    wait_max_s: float
    room_s: float = 0.0
    predicted_s: float = 0.0


def refuse(
    query: PlacementQuery | DecodeQuery,
    *,
    fleet: FleetView,
    settings: RouterSettings,
    barred: Sequence[Barred],
    room_max_s: float,
    excluded: Sequence[tuple[WorkerView, str]],
) -> Rejected:
    """Name the reason for which nothing could be chosen.

    Args:
        query: what was to be placed.
        fleet: workers as known now.
        settings: limits.
        barred: ways that could be gone, with what is wrong with each.
        room_max_s: longest wait for room at a decode worker that still makes sense.
        excluded: workers that cannot serve it now, with reasons.
    """
    model = query.scope.model
    if barred:
        return _overload(query, barred, room_max_s)
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


def _overload(query: PlacementQuery | DecodeQuery, barred: Sequence[Barred], room_max_s: float) -> Rejected:
    """Turn the best of the barred ways into a refusal: work ahead drains a second per second."""
    model = query.scope.model
    rooms_s = [way.room_s for way in barred if way.bar is Bar.FULL]
    if rooms_s:
        least_s = min(rooms_s)
        return Saturated(
            message=f"every decode worker of {model!r} is full; the first has room in {least_s:.2f} s",
            retry_after_s=least_s,
            room_in_s=least_s if least_s <= room_max_s else None,
        )
    missed = [way for way in barred if way.bar is Bar.DEADLINE]
    if missed and isinstance(query, PlacementQuery) and query.deadline_s is not None:
        return _unmeetable(missed, query.deadline_s)
    nearest = min(barred, key=lambda way: way.wait_s - way.wait_max_s)
    over_s = nearest.wait_s - nearest.wait_max_s
    return Saturated(
        message=f"every worker of {model!r} is busy: the next would begin {over_s:.2f} s later than "
        "a new request may wait",
        retry_after_s=max(0.0, over_s),
    )


def _unmeetable(missed: Sequence[Barred], deadline_s: float) -> DeadlineUnmeetable:
    predicted_s = min(way.predicted_s for way in missed)
    idle_s = min(way.predicted_s - way.wait_s for way in missed)
    if idle_s > deadline_s:
        message = f"it would take {idle_s:.2f} s even without any wait; its deadline is {deadline_s:.2f} s"
        return DeadlineUnmeetable(message=message, predicted_s=predicted_s, deadline_s=deadline_s)
    return DeadlineUnmeetable(
        message=f"it would end in {predicted_s:.2f} s, after its deadline of {deadline_s:.2f} s: "
        f"{min(way.wait_s for way in missed):.2f} s of work is ahead of it",
        predicted_s=predicted_s,
        deadline_s=deadline_s,
        retry_after_s=predicted_s - deadline_s,
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
