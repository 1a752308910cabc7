"""What the prefix index answers when something is folded into it.

Comes in: nothing. Goes out: values. Invariant: each fold gives exactly one of them.
Not here: the index (`services.router.prefixes.index`).
"""

from dataclasses import dataclass

from services.domain.ids import WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The index is up to date with this batch or snapshot."""

    worker_id: WorkerId
    trimmed_blocks: int = 0
    """Blocks dropped, oldest first, because the worker claimed more than it can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapFound:
    """Batches are missing: the owner must fetch a snapshot and fold it. Said once per gap."""

    worker_id: WorkerId
    expected: int
    got: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The batch is kept until the snapshot that was asked for arrives."""

    worker_id: WorkerId
    dropped_count: int = 0
    """Older batches given up because too many wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleEpoch:
    """It belongs to a past life of the engine, or repeats what is known; nothing changed."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownWorker:
    """The fleet does not know the worker; nothing changed. Its first status leads to a snapshot."""

    worker_id: WorkerId


Folded = Applied | GapFound | Waiting | StaleEpoch | UnknownWorker
