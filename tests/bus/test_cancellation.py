"""Whoever is cancelled while NATS answers is cancelled: a lost cancellation hangs a process that stops."""

import asyncio

import nats.errors
import pytest

from services.bus.nats.connection import kept_cancellation

PATIENCE_S = 60.0


async def ask(answer: "asyncio.Future[str]") -> str:
    """Wait for an answer as the NATS client does, and take a refusal for one."""
    try:
        with kept_cancellation():
            return await asyncio.wait_for(answer, PATIENCE_S)
    except nats.errors.Error:
        return "refused"


@pytest.mark.parametrize("refused", [False, True])
async def test_a_cancellation_beside_the_answer_is_kept(refused: bool) -> None:
    """Answer and cancellation in the same turn of the loop: the task ends cancelled, not with the answer."""
    answer = asyncio.get_running_loop().create_future()
    asking = asyncio.create_task(ask(answer))
    await asyncio.sleep(0)
    if refused:
        answer.set_exception(nats.errors.NoRespondersError())
    else:
        answer.set_result("value")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_what_was_cancelled_before_may_still_ask() -> None:
    """A task that cleans up after its cancellation gets its answers."""
    answer = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    async def clean_up() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            asked.set()
            return await ask(answer)  # noqa: B012 - the answer is what is proven

    cleaning = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    cleaning.cancel()
    await asked.wait()
    answer.set_result("value")
    assert await cleaning == "value"
