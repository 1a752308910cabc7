"""Integrity of handed-over KV: which blocks are fingerprinted, what was found, when an engine is given up.

Comes in: a request, block counts, settings; results of checks. Goes out: the sample, and a verdict on the
engines at both ends. Invariant: the same request gives the same sample on every machine; a sample that is not
empty holds the prompt's last block, because decode's own prefix cache may hold any other and then does not
pull it. Not here: the fingerprints themselves (`services.engine`), what carries them (`domain.handoff`).
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from services.domain.ids import EngineEpoch, RequestId, WorkerId

CHECKS_MAX = 64
"""Most fingerprints that a ticket carries: 64 of 8 bytes (per device) stay small beside the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCheck:
    """Fingerprint of one handed-over block, taken where it was computed."""

    block_index: int
    """Place in the prompt, 0 for the first block."""
    digests: tuple[int, ...]
    """Unsigned 64-bit fingerprints of the block's KV, shape [devices of one engine]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvChecked:
    """What the check of one pull found."""

    source: WorkerId
    """Worker that computed the blocks."""
    epoch: EngineEpoch
    """Life of the engine that did."""
    matched: bool


def sample_blocks(
    request_id: RequestId, *, block_count: int, handoff_frac: float, blocks_max: int
) -> tuple[int, ...]:
    """Choose the blocks of a handoff that are fingerprinted.

    Args:
        request_id: decides, by its hash, whether this handoff is one of the sample, and which blocks.
        block_count: blocks of the prompt.
        handoff_frac: share of handoffs that are checked, in [0, 1].
        blocks_max: blocks per checked handoff, >= 1; CHECKS_MAX is never exceeded.

    Returns:
        Block indexes, ascending; () when this handoff is not checked.
    """
    draws = _draws(request_id)
    if block_count < 1 or next(draws) >= handoff_frac * 2**32:
        return ()
    wanted = min(block_count, blocks_max, CHECKS_MAX)
    others = wanted - 1
    # One block from each of `others` equal stretches before the last block: spread over the whole prompt.
    edges = [stretch * (block_count - 1) // max(others, 1) for stretch in range(others + 1)]
    spread = [start + next(draws) % (end - start) for start, end in pairwise(edges)]
    return (*spread, block_count - 1)


def _draws(request_id: RequestId) -> Iterator[int]:
    """Numbers in [0, 2**32), without end, that only depend on the request."""
    block = 0
    while True:
        words = hashlib.blake2b(f"{block}/{request_id}".encode()).digest()
        for place in range(0, len(words), 4):
            yield int.from_bytes(words[place : place + 4], "little")
        block += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrityLimits:
    """When mismatches mean more than chance."""

    mismatches_max: int
    """As many within the window and the engine is given up."""
    window_s: float
    """How long a mismatch counts, s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An engine that is not to be trusted any more."""

    at_fault: EngineEpoch | None
    """Life of the engine that computed the blocks; None: the engine that pulled them."""
    reason: str
    """For a person."""


class IntegrityRecord:
    """The checks of one engine's pulls, as far back as they count."""

    def __init__(self, limits: IntegrityLimits) -> None:
        self._limits = limits
        self._mismatches: deque[tuple[float, KvChecked]] = deque(maxlen=limits.mismatches_max)
        self._last_match_s: dict[EngineEpoch, float] = {}

    def fold(self, checked: KvChecked, *, now_s: float) -> Verdict | None:
        """Take one result in.

        Args:
            checked: what a check found.
            now_s: by the caller's clock; never smaller than before.

        Returns:
            Which engine must go and why, or None while none need. When all mismatches come from one engine
            and blocks of another one matched meanwhile, that one is at fault; otherwise the engine that
            pulled goes, since with a single source nobody can tell.
        """
        oldest_s = now_s - self._limits.window_s
        self._last_match_s = {epoch: at_s for epoch, at_s in self._last_match_s.items() if at_s > oldest_s}
        if checked.matched:
            self._last_match_s[checked.epoch] = now_s
            return None
        self._mismatches.append((now_s, checked))
        if len(self._mismatches) < self._limits.mismatches_max or self._mismatches[0][0] <= oldest_s:
            return None
        sources = sorted({entry.source for _, entry in self._mismatches})
        epochs = {entry.epoch for _, entry in self._mismatches}
        is_theirs = len(epochs) == 1 and bool(self._last_match_s.keys() - epochs)
        found = f"{len(self._mismatches)} pulls within {self._limits.window_s:g} s brought changed KV"
        others = ", while that of others arrived intact" if is_theirs else ""
        return Verdict(
            at_fault=checked.epoch if is_theirs else None,
            reason=f"{found}, computed by {', '.join(sources)}{others}",
        )
