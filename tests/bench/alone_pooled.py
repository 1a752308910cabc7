"""What a fleet could do whose caches were one: no router, nothing late, every prompt anywhere.

Comes in: prompts. Goes out: who was late. The reference for `bench_router_alone`: as many workers with one
cache of the same total size, and one late-bound queue, first come first served or shortest prefill first.
The cache may lose what a worker that leaves would take with it: its share of all prompts, each up to where
another one branches off. What several prompts share stays: a fleet holds that more than once.
"""

from random import Random

from services.domain.blocks import BlockHash
from services.replay.cache import BlockCache
from services.replay.presets import EngineTiming
from tests.bench.alone_engine import Clock, Engine, Prompt
from tests.bench.alone_tally import Tally

ORDERS = ("fcfs", "shortest")


class LossyCache(BlockCache):
    """A cache that can lose a share of its prompts."""

    def lose(self, frac: float, random: Random) -> None:
        """Forget idle prompts, each with a probability, from their ends to where another one branches off."""
        ends = [name for name in self._idle if name not in self._heirs]
        for end in ends:
            name: int | None = end if random.random() < frac else None
            while name is not None and name in self._idle and name not in self._heirs:
                del self._idle[name], self._references[name]
                name = self._parents.pop(name, None)
                if name is not None:
                    self._heirs[name] -= 1
                    if not self._heirs[name]:
                        del self._heirs[name]


class PooledFleet:
    """Workers with one cache and one queue."""

    def __init__(
        self,
        clock: Clock,
        tally: Tally,
        timing: EngineTiming,
        worker_count: int,
        order: str,
        *,
        loses_every_s: float | None = None,
    ) -> None:
        """Begin with an empty cache.

        Args:
            clock: of the run.
            tally: counts what is served.
            timing: of each worker.
            worker_count: how many.
            order: of `ORDERS`.
            loses_every_s: how often one worker's share of the cache is lost; None never loses anything.
        """
        self._clock, self._tally, self._timing, self._order = clock, tally, timing, order
        self._cache = LossyCache(timing.kv_blocks * worker_count)
        self._random = Random(0)
        self.engines = [Engine(timing, self._cache) for _ in range(worker_count)]
        self._queue: list[Prompt] = []
        if loses_every_s is not None:
            self._lose_every(loses_every_s)

    def _lose_every(self, period_s: float) -> None:
        def lose() -> None:
            self._cache.lose(1 / len(self.engines), self._random)
            self._lose_every(period_s)

        self._clock.after(period_s, lose)

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
