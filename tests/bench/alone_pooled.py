"""What a fleet could do whose caches were one: no router, nothing late, every prompt anywhere.

Comes in: prompts. Goes out: who was late. The reference for `bench_router_alone`: as many workers with one
cache of the same total size, and one late-bound queue, first come first served or shortest prefill first.
"""

from services.domain.blocks import BlockHash
from services.replay.cache import BlockCache
from services.replay.presets import EngineTiming
from tests.bench.alone_engine import Clock, Engine, Prompt
from tests.bench.alone_tally import Tally

ORDERS = ("fcfs", "shortest")


class PooledFleet:
    """Workers with one cache and one queue."""

    def __init__(
        self, clock: Clock, tally: Tally, timing: EngineTiming, worker_count: int, order: str
    ) -> None:
        self._clock, self._tally, self._timing, self._order = clock, tally, timing, order
        self._cache = BlockCache(timing.kv_blocks * worker_count)
        self.engines = [Engine(timing, self._cache) for _ in range(worker_count)]
        self._queue: list[Prompt] = []

    def arrive(self, prompt: Prompt) -> None:
        """Take a prompt; a worker between two steps begins it at once."""
        self._queue.append(prompt)
        for engine in self.engines:
            if not engine.stepping:
                self._step(engine)

    def _step(self, engine: Engine) -> None:
        """Fill a step and begin it."""
        tokens = engine.left_tokens()
        while self._queue and tokens < self._timing.step_tokens_max:
            prompt = self._next()
            self._queue.remove(prompt)
            engine.submit(prompt)
            tokens += self._uncached_tokens(prompt)
        step_s = engine.begin_step()
        if step_s is not None:
            self._clock.after(step_s, lambda: self._end(engine))

    def _end(self, engine: Engine) -> None:
        for prompt in engine.end_step():
            self._tally.served(prompt, self._clock.now_s)
        self._step(engine)

    def _next(self) -> Prompt:
        return self._queue[0] if self._order == "fcfs" else min(self._queue, key=self._prefill_s)

    def _overlap_blocks(self, names: tuple[BlockHash, ...]) -> int:
        return self._cache.overlap_blocks(names)

    def _uncached_tokens(self, prompt: Prompt) -> int:
        cached = self._overlap_blocks(prompt.names) * self._timing.block_size_tokens
        return max(1, prompt.prompt_tokens - cached)

    def _prefill_s(self, prompt: Prompt) -> float:
        return self._timing.performance.prompt_s(
            prompt_tokens=prompt.prompt_tokens,
            cached_tokens=prompt.prompt_tokens - self._uncached_tokens(prompt),
            step_tokens_max=self._timing.step_tokens_max,
        )
