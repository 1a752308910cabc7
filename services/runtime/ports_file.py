"""A file in which a process tells which ports it got, for whoever let it choose.

Comes in: ports. Goes out: the same, in another process. Invariant: a reader sees all of them or none.
"""

from pathlib import Path

import msgspec


def write_ports(file: Path, ports: tuple[int, ...]) -> None:
    """Write whole or not at all: somebody is reading."""
    draft = file.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(ports))
    draft.replace(file)


def read_ports(file: Path) -> tuple[int, ...] | None:
    """Read the ports; None while the process has not told them yet.

    Raises:
        msgspec.MsgspecError: the file holds something else.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=tuple[int, ...])
    except FileNotFoundError:
        return None
