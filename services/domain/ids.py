"""Identifiers. Each is a string with its own type, so that one cannot be passed for another."""

from typing import NewType

RequestId = NewType("RequestId", str)
"""One sequence to generate. A client call with `n` choices becomes `n` requests."""

TaskId = NewType("TaskId", str)
"""One entry of the prefill queue; unique per attempt of a request to be prefilled remotely."""

TicketId = NewType("TicketId", str)
"""One handoff of KV blocks; used at most once."""

WorkerId = NewType("WorkerId", str)
"""One worker process; a restarted process may keep its id, its epoch differs."""

EngineEpoch = NewType("EngineEpoch", str)
"""One life of one engine: everything an engine held is gone when its epoch changes."""

GatewayId = NewType("GatewayId", str)
"""One life of one gateway process."""
