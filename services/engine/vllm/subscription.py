"""The subscription to vLLM's KV events: a SUB socket for what comes, a DEALER for what was missed.

Comes in: ZMQ frames (topic, sequence as 8 big-endian bytes, msgpack batch) of one engine.
Goes out: our KV events through the sink, in the order in which the cache changed.
Invariant: batches are folded in sequence; a gap is filled by replay, or, when the publisher's buffer no
longer holds it, everything is declared cleared. The socket is always drained: a full publisher queue
would block the engine's scheduler. Protocol: vLLM 0.32 `distributed/kv_events.py`.
"""

import asyncio
import logging

import zmq
import zmq.asyncio

from services.engine.port import KvSink
from services.engine.vllm.kv_events import KvLedger, parse_batch

log = logging.getLogger(__name__)

_END = (-1).to_bytes(8, "big", signed=True)
_REPLAY_S = 5.0
"""Deadline of one replay; the publisher looks for replay requests every 0.1 s."""
_CATCH_UP_S = 5.0
"""After so much silence the publisher is asked for batches behind the last one seen."""
_HIGH_WATER = 100_000
"""Batches buffered before the socket drops; a drop is a gap and is replayed."""


class KvSubscription:
    """Follows one engine's cache until it is closed."""

    def __init__(self, *, events_endpoint: str, replay_endpoint: str, ledger: KvLedger, sink: KvSink) -> None:
        self._ledger = ledger
        self._sink = sink
        self._next_sequence = 0
        self.replay_count = 0
        self.lost_count = 0
        self._context = zmq.asyncio.Context()
        self._replay_endpoint = replay_endpoint
        self._live = self._context.socket(zmq.SUB)
        self._live.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        self._live.setsockopt(zmq.LINGER, 0)
        self._live.setsockopt(zmq.SUBSCRIBE, b"")
        self._live.connect(events_endpoint)
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Prove that the publisher answers, take what it already has, then follow in the background.

        Raises:
            TimeoutError: the publisher does not answer.
        """
        await self._replay()
        self._task = asyncio.create_task(self._follow(), name="kv-events")

    async def close(self) -> None:
        """Stop following and close the sockets. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._live.close()
        self._context.term()

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_CATCH_UP_S):
                    frames = await self._live.recv_multipart()
            except TimeoutError:
                await self._catch_up()
                continue
            sequence, payload = int.from_bytes(frames[1], "big"), frames[2]
            if sequence > self._next_sequence:
                await self._catch_up()
            self._take(sequence, payload)

    async def _catch_up(self) -> None:
        try:
            await self._replay()
        except TimeoutError:
            log.warning("the engine's KV event replay did not answer within %s s", _REPLAY_S)

    async def _replay(self) -> None:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        try:
            socket.connect(self._replay_endpoint)
            async with asyncio.timeout(_REPLAY_S):
                await socket.send_multipart([b"", self._next_sequence.to_bytes(8, "big")])
                self.replay_count += 1
                while True:
                    frames = await socket.recv_multipart()
                    if frames[2] == _END:
                        return
                    self._take(int.from_bytes(frames[2], "big"), frames[3])
        finally:
            socket.close()

    def _take(self, sequence: int, payload: bytes) -> None:
        if sequence < self._next_sequence:
            return  # replay and live overlap
        if sequence > self._next_sequence:
            self.lost_count += sequence - self._next_sequence
            log.warning("KV events %s to %s are lost", self._next_sequence, sequence - 1)
            self._sink(self._ledger.forget())
        self._next_sequence = sequence + 1
        try:
            events = self._ledger.fold(parse_batch(payload))
        except ValueError as failure:
            log.warning("KV event batch %s cannot be read: %s", sequence, failure)
            events = self._ledger.forget()
        if events:
            self._sink(events)
