"""Calls generated from the API's own description, against a whole cluster instead of the edge alone."""

import asyncio

import pytest

from tests.gateway.edge.test_openapi import attack
from tests.live.cluster import RunningCluster


@pytest.mark.timeout(600)
async def test_no_generated_call_finds_a_fault(simulated: RunningCluster) -> None:
    """Right and wrong calls find no 5xx and no undescribed answer, and nothing of them stays."""
    seen = await asyncio.to_thread(attack, simulated.url)
    statuses = {status for _, status in seen}
    assert {200, 400} <= statuses
    assert max(statuses) < 500
    await simulated.becomes_idle()
