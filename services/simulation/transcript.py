"""The trace of a run: every event that matters, in order, as text.

Comes in: events of clients, faults, messages and the queue. Goes out: lines, and one digest of all of
them. Invariant: the same scenario gives the same digest; nothing in a line depends on the process.
Not here: what a reader is shown of it (`services.simulation.story`).
"""

import hashlib
from dataclasses import dataclass
from typing import assert_never

from services.domain.ids import RequestId
from services.domain.link import (
    Accepted,
    Cancel,
    Goodbye,
    HandoffAnswer,
    HandoffOffer,
    Hello,
    StartDecode,
    TaskFailed,
    TaskStarted,
    ToGateway,
    ToWorker,
    Welcome,
)
from services.domain.stream import Delta, StepFrame


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a trace."""

    at_s: float
    who: str
    what: str
    requests: tuple[str, ...] = ()
    """Names of the clients' requests that it is about."""

    def line(self) -> str:
        """Write it as text."""
        return f"{self.at_s:12.6f}  {self.who:<24}  {self.what}"


class Trace:
    """All events of one run."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._state = hashlib.blake2b(digest_size=16)

    def note(self, at_s: float, who: str, what: str, requests: tuple[str, ...] = ()) -> None:
        """Add an event."""
        event = Event(at_s, who, what, requests)
        self._events.append(event)
        self._state.update(event.line().encode())

    @property
    def last_s(self) -> float:
        """Time of the last event; 0 when there is none."""
        return self._events[-1].at_s if self._events else 0.0

    def events(self) -> tuple[Event, ...]:
        """All events so far."""
        return tuple(self._events)

    def digest(self) -> str:
        """Fingerprint of everything noted so far: 32 hexadecimal digits."""
        return self._state.hexdigest()


def client_of(request_id: RequestId | str) -> str:
    """Name the client behind the id of an attempt (`name~try.attempt@gateway`) or of a task."""
    return request_id.partition("~")[0]


def describe(message: ToGateway | ToWorker) -> tuple[str, tuple[str, ...]]:
    """Say what a message says, and whom it is about."""
    match message:
        case StepFrame(deltas=deltas):
            return "frame " + ", ".join(map(_delta, deltas)), tuple(client_of(d.request_id) for d in deltas)
        case StartDecode(request=request, ticket=ticket, emitted_token_ids=emitted):
            source = "prompt" if ticket is None else f"ticket {ticket.ticket_id}"
            return f"start {request.request_id} from {source} behind {len(emitted)} tokens", (
                client_of(request.request_id),
            )
        case HandoffOffer(handoff=handoff):
            ticket_id = None if handoff.ticket is None else handoff.ticket.ticket_id
            return f"offer {handoff.request_id} ticket {ticket_id}", (client_of(handoff.request_id),)
        case HandoffAnswer(request_id=request_id, taken=taken, pulled=pulled):
            return f"answer {request_id} taken={taken} pulled={pulled}", (client_of(request_id),)
        case TaskStarted(request_id=request_id, attempt=attempt):
            return f"claimed {request_id} attempt {attempt}", (client_of(request_id),)
        case TaskFailed(request_id=request_id, final=final):
            return f"failed {request_id}: {final.error}", (client_of(request_id),)
        case Accepted(request_id=request_id):
            return f"accepted {request_id}", (client_of(request_id),)
        case Cancel(request_id=request_id):
            return f"cancel {request_id}", (client_of(request_id),)
        case Hello() | Welcome() | Goodbye():
            return type(message).__name__.lower(), ()
        case _:
            assert_never(message)


def _delta(delta: Delta) -> str:
    end = "" if delta.finish is None else f" {delta.finish}"
    why = "" if delta.error is None else f" ({delta.error})"
    return f"{delta.request_id}:{','.join(map(str, delta.token_ids))}{end}{why}"
