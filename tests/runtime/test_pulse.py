"""The pulse knows how long a process stood still."""

import asyncio

from services.runtime.clock import SkewedClock, run_virtual
from services.runtime.pulse import AFTERMATH_S, Pulse


def test_a_process_that_turns_doubts_nothing() -> None:
    """While the loop turns, what is read now came now."""

    async def main() -> None:
        pulse = Pulse(SkewedClock())
        beating = asyncio.ensure_future(pulse.run())
        for _ in range(100):
            await asyncio.sleep(0.13)
            assert pulse.doubt_s() == 0.0
        beating.cancel()

    run_virtual(main())


def test_a_standstill_ages_what_is_read_after_it() -> None:
    """After a standstill of 20 s a message may be 20 s old, at once and for a while, and then no more."""

    async def main() -> None:
        clock = SkewedClock()
        pulse = Pulse(clock)
        beating = asyncio.ensure_future(pulse.run())
        await asyncio.sleep(1.0)
        clock.skew(rate=1.0, jump_s=20.0)  # as a process sees it that is stopped and goes on
        assert 20.0 <= pulse.doubt_s() < 21.0
        await asyncio.sleep(AFTERMATH_S / 2)
        assert pulse.doubt_s() >= 20.0
        await asyncio.sleep(AFTERMATH_S)
        assert pulse.doubt_s() == 0.0
        beating.cancel()

    run_virtual(main())


def test_standstills_close_together_add_up() -> None:
    """A process that is stopped twice in a row may read what came before the first time."""

    async def main() -> None:
        clock = SkewedClock()
        pulse = Pulse(clock)
        beating = asyncio.ensure_future(pulse.run())
        await asyncio.sleep(1.0)
        clock.skew(rate=1.0, jump_s=20.0)
        await asyncio.sleep(1.0)
        clock.skew(rate=1.0, jump_s=5.0)
        assert pulse.doubt_s() >= 25.0
        beating.cancel()

    run_virtual(main())
