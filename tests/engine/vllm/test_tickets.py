"""A ticket becomes connector parameters only when it names exactly the blocks that decode needs."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.blocks import CacheScope, blocks_for
from services.domain.errors import TicketInvalid
from services.domain.handoff import Ticket, prompt_digest
from services.domain.ids import EngineEpoch, RequestId, TicketId, WorkerId
from services.domain.integrity import BlockCheck
from services.domain.request import InferenceRequest, Sampling
from services.domain.worker import WorkerLimits
from services.engine.vllm.settings import CHECKS_KEY
from services.engine.vllm.ticket import (
    FILLER_BLOCK,
    decode_params,
    issue_ticket,
    parse_kept_blocks,
    render_connector,
)

SIZE = 32


def params(prompt_tokens: int) -> dict[str, object]:
    """What vLLM says of a finished prefill."""
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": ([7 + i for i in range(blocks_for(prompt_tokens, SIZE))],),
        "remote_engine_id": "e",
        "remote_request_id": "r-12345678",
        "remote_host": "127.0.0.1",
        "remote_port": 5600,
        "tp_size": 1,
        "dcp_size": 1,
        "pp_size": 1,
        "remote_num_tokens": prompt_tokens,
        "remote_blocks_expiry_time": None,
        "transfer_mode": "pull",
        "remote_prefill_cached_tokens": 0,
        "something_new": 1,
    }


def ticket(prompt_tokens: int) -> Ticket:
    """A ticket for so many tokens."""
    kept = parse_kept_blocks(params(prompt_tokens), prompt_tokens=prompt_tokens, block_size_tokens=SIZE)
    return Ticket(
        ticket_id=TicketId("t"),
        request_id=RequestId("r"),
        prefill_worker_id=WorkerId("p"),
        epoch=EngineEpoch("e"),
        digest=prompt_digest(range(prompt_tokens), CacheScope(model="m")),
        prompt_tokens=prompt_tokens,
        block_size_tokens=SIZE,
        block_count=blocks_for(prompt_tokens, SIZE),
        kv_bytes=1,
        lease_s=5.0,
        compatibility="c",
        connector=render_connector(kept),
    )


@given(prompt_tokens=st.integers(1, 400), emitted=st.integers(0, 1))
def test_block_ids_cover_the_decode_prompt_exactly(prompt_tokens: int, emitted: int) -> None:
    """One id too few kills the engine, one too many gives wrong tokens: there are just as many as needed."""
    said = decode_params(ticket(prompt_tokens), emitted_count=emitted, block_size_tokens=SIZE)
    groups = said["remote_block_ids"]
    assert isinstance(groups, list)
    (ids,) = groups
    assert isinstance(ids, list)
    assert len(ids) == blocks_for(prompt_tokens + emitted, SIZE)
    fillers = ids.count(FILLER_BLOCK)
    assert fillers == (1 if emitted and prompt_tokens % SIZE == 0 else 0)


def test_parameters_survive_their_way() -> None:
    """All that vLLM gave comes back as given, keys that we do not know excepted."""
    given_by_vllm = params(70)
    del given_by_vllm["something_new"]
    checked = replace(ticket(70), checks=(BlockCheck(block_index=2, digests=(5, 2**64 - 1)),))
    back = decode_params(checked, emitted_count=0, block_size_tokens=SIZE)
    assert back == json.loads(json.dumps(given_by_vllm)) | {CHECKS_KEY: [[2, [5, 2**64 - 1]]]}


def test_fingerprints_become_fields_of_the_ticket() -> None:
    """What our connector adds to vLLM's parameters goes into the ticket, and not into its connector text."""
    request = InferenceRequest(
        request_id=RequestId("r"),
        scope=CacheScope(model="m"),
        prompt_token_ids=tuple(range(70)),
        sampling=Sampling(max_tokens=2),
    )
    issued = issue_ticket(
        request,
        {**params(70), CHECKS_KEY: [[2, [7]]]},
        worker_id=WorkerId("p"),
        epoch=EngineEpoch("e"),
        limits=WorkerLimits(
            block_size_tokens=SIZE,
            kv_blocks=10,
            kv_bytes_per_token=1,
            context_tokens_max=128,
            sequences_max=1,
            step_tokens_max=128,
            compatibility="c",
        ),
        kv_bytes_per_block=32,
        lease_s=5.0,
    )
    assert issued.checks == (BlockCheck(block_index=2, digests=(7,)),)
    assert issued.connector == ticket(70).connector


def test_a_ticket_goes_with_its_own_lease() -> None:
    """Parameters of another request's lease are refused, though they name as many blocks."""
    other = replace(ticket(70), request_id=RequestId("other"))
    with pytest.raises(TicketInvalid, match="lease of another request"):
        decode_params(other, emitted_count=0, block_size_tokens=SIZE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("remote_block_ids", ()),
        ("remote_block_ids", ([7, 8],)),
        ("remote_block_ids", ([7, 8, 9, 10],)),
        ("remote_block_ids", ([7, 8, 8],)),
        ("remote_block_ids", ([7, 8, -1],)),
        ("remote_block_ids", None),
        ("remote_num_tokens", 69),
        ("remote_port", 0),
        ("remote_engine_id", ""),
        ("do_remote_prefill", False),
        ("transfer_mode", "push"),
    ],
)
def test_wrong_parameters_are_refused(key: str, value: object) -> None:
    """Whatever does not describe the prompt's blocks completely is no ticket."""
    with pytest.raises(TicketInvalid):
        parse_kept_blocks(params(70) | {key: value}, prompt_tokens=70, block_size_tokens=SIZE)


def test_wrong_tickets_are_refused() -> None:
    """A ticket that was changed on its way, or is asked to cover more than its prompt, is refused."""
    good = ticket(64)
    for bad, emitted, size in [
        (replace(good, connector="{"), 0, SIZE),
        (replace(good, connector="[]"), 0, SIZE),
        (replace(good, prompt_tokens=65), 0, SIZE),
        (good, 2, SIZE),
        (good, 0, 16),
    ]:
        with pytest.raises(TicketInvalid):
            decode_params(bad, emitted_count=emitted, block_size_tokens=size)
