"""A part that does not end cannot keep its process."""

import asyncio
import logging

import pytest

from services.runtime.lifecycle import closing_in_time


async def test_a_part_that_hangs_is_named_and_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Those behind it are ended all the same, and the log says what was left."""
    ended: list[str] = []

    async def ends() -> None:
        ended.append("first")

    async def hangs() -> None:
        await asyncio.Event().wait()

    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(30.0), closing_in_time(0.05) as closing:
            closing.push_async_callback(ends)
            closing.push_async_callback(hangs)
    assert ended == ["first"]
    assert "not all ended within 0.05 s" in caplog.text
