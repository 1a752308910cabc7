"""The bus on NATS JetStream; the only importer of `nats`.

`connect` gives a process its `NatsBus`. `connection` holds the client, `streams` says what the server
keeps, `follower` watches a stream's newest values; `registry`, `events` and `prefill_queue` are the parts.
"""

from services.bus.nats.client import NatsBus, connect

__all__ = ["NatsBus", "connect"]
