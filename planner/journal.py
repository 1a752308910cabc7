"""Every decision on disk, one JSON object per line.

Comes in: looks. Goes out: a file, and the one before it. Invariant: the two together are bounded; a disk that
is full stops the journal, not the planner; a line is whole or it is the last one, still on its way. Not here:
what is in an entry (`loop`).
"""

import logging
import time
from pathlib import Path

import msgspec

from planner.loop import Entry

log = logging.getLogger(__name__)


class Journal:
    """Appends to a file; puts it aside when it is large."""

    def __init__(self, file: Path, *, bytes_max: int) -> None:
        """Take a place.

        Args:
            file: to append to.
            bytes_max: size at which it is put aside as `FILE.1`.
        """
        self._file = file
        self._bytes_max = bytes_max

    def keep(self, entry: Entry) -> None:
        """Append a look, with the time of day for people."""
        line = msgspec.json.encode(
            {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "look": entry}
        )
        try:
            if self._file.exists() and self._file.stat().st_size + len(line) > self._bytes_max:
                self._file.replace(self._file.with_name(f"{self._file.name}.1"))
            with self._file.open("ab", buffering=0) as out:
                end = out.tell()
                if out.write(line + b"\n") <= len(line):
                    out.truncate(end)
                    log.warning("the decision is not kept: the disk took half of it")
        except OSError as error:
            log.warning("the decision is not kept: %s", error)
