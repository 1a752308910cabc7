"""What was asked, and when: requests with lengths and with prefixes that repeat.

Comes in: a file, or requests that a generator invents. Goes out: a frozen trace, sorted by arrival, whose
first request arrives at 0. A prompt is a chain of ids, one per `trace_block_tokens` tokens, the last of
which may be partly filled: equal id = equal prefix up to there. `kv_blocks` cuts that into the full blocks
of an engine. Invariant: ids are small integers >= 0, and no two different prefixes share one.
Not here: what a request costs (`worker`), which traces there are (`workloads`), files (`trace_files`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TRACE_BLOCK_TOKENS = 512
"""Tokens per id in the public Mooncake format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRequest:
    """One request of a trace."""

    arrival_s: float
    """Since the first request of the trace."""
    prompt_tokens: int
    """At least 1."""
    output_tokens: int
    """At least 1."""
    prefix_ids: tuple[int, ...]
    """Shape [ceil(prompt_tokens / trace_block_tokens)]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests in the order of their arrival."""

    name: str
    requests: tuple[TracedRequest, ...]
    trace_block_tokens: int = TRACE_BLOCK_TOKENS

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last."""
        return self.requests[-1].arrival_s if self.requests else 0.0


class PrefixNames:
    """Gives each prefix its id: the same name behind the same prefix is the same id."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, int | str], int] = {}
        self._next = 0

    def chain(self, names: Iterable[int | str], count: int) -> tuple[int, ...]:
        """Name the blocks of one prompt.

        Args:
            names: of its leading blocks, each compared only with others behind the same prefix.
            count: blocks of the prompt; those without a name are like no other, surplus names are dropped.
        """
        parent = -1
        ids: list[int] = []
        for name in names:
            if len(ids) == count:
                break
            found = self._ids.get((parent, name))
            if found is None:
                found = self._ids[parent, name] = self._next
                self._next += 1
            ids.append(found)
            parent = found
        missing = count - len(ids)
        ids.extend(range(self._next, self._next + missing))
        self._next += missing
        return tuple(ids)


def ordered(name: str, requests: Sequence[TracedRequest]) -> Trace:
    """Make a trace: sorted by arrival (stable), moved so that it begins at 0."""
    begin_s = min((request.arrival_s for request in requests), default=0.0)
    moved = [
        TracedRequest(
            arrival_s=request.arrival_s - begin_s,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
            prefix_ids=request.prefix_ids,
        )
        for request in requests
    ]
    return Trace(name=name, requests=tuple(sorted(moved, key=lambda request: request.arrival_s)))


def kv_blocks(request: TracedRequest, *, trace_block_tokens: int, block_size_tokens: int) -> list[int]:
    """Name the full KV blocks of a prompt.

    A KV block is named by the trace block that holds its last token and by its place there, so that equal
    names mean equal prefixes whatever the two sizes are.

    Args:
        request: whose prompt.
        trace_block_tokens: tokens per id of the trace.
        block_size_tokens: tokens per block of the engine.

    Returns:
        Shape [prompt_tokens // block_size_tokens].
    """
    width = trace_block_tokens // block_size_tokens + 1
    names: list[int] = []
    for place, prefix_id in enumerate(request.prefix_ids):
        first = place * trace_block_tokens // block_size_tokens
        count = (place + 1) * trace_block_tokens // block_size_tokens - first
        names.extend(range(prefix_id * width, prefix_id * width + count))
    del names[request.prompt_tokens // block_size_tokens :]
    return names
