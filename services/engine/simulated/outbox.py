"""The outbox: gathers what an engine has to say until a step ends, then says it in one call.

Comes in: deltas, ends of prefills, checks of pulls, and the pool's events. Goes out: calls of the two sinks,
cache changes before the outputs that follow from them. Invariant: nothing is said twice or out of order,
and nothing while the outbox is shut (a hung engine is silent). Not here: what is said.
"""

import asyncio

from services.domain.integrity import KvChecked
from services.domain.pace import StepSpan
from services.domain.stream import Delta
from services.engine.port import EngineStep, KvSink, Prefilled, StepSink
from services.engine.simulated.pool import BlockPool


class Outbox:
    """The voice of one engine."""

    def __init__(self, pool: BlockPool, steps: StepSink, kv_events: KvSink) -> None:
        self._pool = pool
        self._steps = steps
        self._kv_events = kv_events
        self._flush_due = False
        self.shut = False
        """Nothing is said while it is set; what there is to say waits."""
        self.deltas: list[Delta] = []
        self.prefilled: list[Prefilled] = []
        self.kv_checks: list[KvChecked] = []
        self.span: StepSpan | None = None

    def computed(self, span: StepSpan) -> None:
        """Note how long a step took; told with the next output."""
        self.span = span if self.span is None else self.span + span

    def flush(self) -> None:
        """Say everything now."""
        self._flush_due = False
        if self.shut:
            return
        events = self._pool.take_events()
        if events:
            self._kv_events(events)
        if self.deltas or self.prefilled or self.kv_checks:
            step = EngineStep(
                deltas=tuple(self.deltas),
                prefilled=tuple(self.prefilled),
                kv_checks=tuple(self.kv_checks),
                span=self.span,
            )
            self.span = None
            self.deltas.clear()
            self.prefilled.clear()
            self.kv_checks.clear()
            self._steps(step)

    def flush_soon(self) -> None:
        """Say everything once the present callback is done: outputs that belong to no step."""
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self.flush)
