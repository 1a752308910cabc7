"""Two planners under drawn faults: their writes never mingle, and when faults end one of them acts."""

import asyncio
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from services.runtime.clock import LoopClock, run_virtual
from tests.planner.kubernetes.pair import TERMS, Pair, begun
from tests.planner.kubernetes.scene import PREFILL
from tests.planner.kubernetes.wire import Asked

Fault = tuple[float, int, str]
"""After how long, on whose wire, what."""

faults = st.lists(
    st.tuples(
        st.floats(0.1, 12.0),
        st.integers(0, 1),
        st.sampled_from(["down", "up", "cut", "slow", "forget", "status", "act", "act", "429", "500"]),
    ),
    max_size=20,
)
SLOW_S = 4.0
"""How long a request takes on a slow wire."""


class Trial:
    """A pair, faults, and who wrote when."""

    def __init__(self, pair: Pair) -> None:
        """Note every write of both."""
        self.pair = pair
        self.acted: list[tuple[float, int]] = []
        self._delays_s = [0.0, 0.0]
        self._size = 3
        for index, wire in enumerate(pair.wires):
            wire.before = lambda asked, index=index: self._note(asked, index)

    async def _note(self, asked: Asked, index: int) -> None:
        await asyncio.sleep(self._delays_s[index])
        if asked.method == "PUT":
            self.acted.append((LoopClock().now_s(), index))

    async def suffer(self, index: int, what: str) -> None:
        """Let something happen to one of the two, or to both."""
        wire = self.pair.wires[index]
        match what:
            case "down" | "up":
                wire.is_down = what == "down"
            case "cut":
                wire.cut()
            case "slow":
                self._delays_s[index] = SLOW_S - self._delays_s[index]
            case "forget":
                self.pair.api.forget()
            case "status":
                self.pair.api.edit(PREFILL, ready=1)
            case "act":
                self._size += 1
                await asyncio.gather(self.pair.act(0, self._size), self.pair.act(1, self._size + 50))
            case code:
                wire.faults += [(int(code), {"Retry-After": "1"})] * 3

    def heal(self) -> None:
        """End all faults."""
        for index, wire in enumerate(self.pair.wires):
            wire.is_down, wire.faults, self._delays_s[index] = False, [], 0.0


@settings(max_examples=15, deadline=None)
@given(faults)
def test_two_planners_never_act_within_one_lease(drawn: list[Fault]) -> None:
    """Writes of two planners lie apart by what the lease has beyond the time to renew it; then one acts."""

    async def story() -> None:
        trial = Trial(await begun())
        for after_s, index, what in drawn:
            await asyncio.sleep(after_s)
            await trial.suffer(index, what)
        apart_s = TERMS.lease_s - TERMS.renew_within_s
        for before, after in pairwise(trial.acted):
            assert before[1] == after[1] or after[0] - before[0] >= apart_s, trial.acted
        trial.heal()
        await asyncio.sleep(60.0)
        left = [await trial.pair.act(index, 30 + index) for index in (0, 1)]
        assert sorted(map(len, left)) == [0, 1], left
        await trial.pair.close()

    run_virtual(story())
