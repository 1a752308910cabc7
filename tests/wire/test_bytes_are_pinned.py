"""The bytes of one message of each kind, so that a changed field number or type is seen.

A cluster is upgraded process by process: these bytes are what the processes of the last version send.
`python -m tests.wire.test_bytes_are_pinned` prints the present ones, for a change that is meant.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
    Welcome,
)
from services.wire import codec
from tests.wire import samples as s

GOLDEN = Path(__file__).parent / "pinned_bytes.json"

WRITTEN: dict[str, Callable[[], bytes]] = {
    "hello": lambda: codec.encode_to_worker(Hello(gateway_id=s.RECORD.gateway_id)),
    "start_decode": lambda: codec.encode_to_worker(
        StartDecode(request=s.REQUEST, ticket=s.TICKET, emitted_token_ids=(1, 300), deadline_s=2.5)
    ),
    "cancel": lambda: codec.encode_to_worker(Cancel(request_id=s.R)),
    "handoff_answer": lambda: codec.encode_to_worker(
        HandoffAnswer(
            task_id=s.RECORD.task_id, request_id=s.R, ticket_id=s.TICKET.ticket_id, taken=True, pulled=True
        )
    ),
    "welcome": lambda: codec.encode_to_gateway(Welcome(worker_id=s.W, epoch=s.E)),
    "accepted": lambda: codec.encode_to_gateway(Accepted(request_id=s.R)),
    "step_frame": lambda: codec.encode_to_gateway(s.FRAME),
    "handoff_offer": lambda: codec.encode_to_gateway(HandoffOffer(handoff=s.HANDOFF)),
    "task_started": lambda: codec.encode_to_gateway(
        TaskStarted(task_id=s.RECORD.task_id, request_id=s.R, attempt=2, waited_s=0.5)
    ),
    "task_failed": lambda: codec.encode_to_gateway(
        TaskFailed(task_id=s.RECORD.task_id, request_id=s.R, final=s.DELTA)
    ),
    "goodbye": lambda: codec.encode_to_gateway(Goodbye()),
    "inference_request": lambda: codec.encode_request(s.REQUEST),
    "queue_entry": lambda: codec.encode_entry(s.RECORD, s.CLAIM, 3),
    "worker_status": lambda: codec.encode_status(s.STATUS),
    "role_order": lambda: codec.encode_role_order(s.ROLE_ORDER),
    "kv_event_batch": lambda: codec.encode_kv_batch(s.BATCH),
    "kv_snapshot": lambda: b"".join(codec.encode_snapshot(s.SNAPSHOT)),
    "place_request": lambda: codec.placement_query_to_proto(s.PLACEMENT_QUERY).SerializeToString(),
    "place_response": lambda: codec.place_response_to_proto(s.PLACEMENT).SerializeToString(),
    "place_response_rejected": lambda: codec.place_response_to_proto(s.FAILED).SerializeToString(),
    "place_decode_request": lambda: codec.decode_query_to_proto(s.DECODE_QUERY).SerializeToString(),
    "place_decode_response": lambda: codec.place_decode_response_to_proto(
        s.DECODE_PLACEMENT
    ).SerializeToString(),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_bytes_are_what_the_last_version_sent(name: str) -> None:
    """Field numbers and types are for ever: what is written today could have been written before."""
    golden: dict[str, str] = json.loads(GOLDEN.read_text())
    assert WRITTEN[name]().hex() == golden[name]


def test_no_pinned_message_lost_its_writer() -> None:
    """Every pinned message is still compared."""
    assert set(json.loads(GOLDEN.read_text())) == set(WRITTEN)


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: write().hex() for name, write in WRITTEN.items()}, indent=2) + "\n")
