"""How subcommands print: a table for people, the same rows as JSON for programs.

Comes in: rows. Goes out: lines on standard output, or one JSON file.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

console = Console(highlight=False)
"""Standard output; plain text when it is no terminal."""

stderr = Console(stderr=True, highlight=False)
"""Progress and news that must not mix with answers."""

_WORDS = frozenset({"request", "worker", "phases", "state", "path", "policy", "engine", "model"})


def add_json(command: argparse.ArgumentParser) -> None:
    """Add the option that writes the result as JSON as well."""
    command.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the result as JSON ('-': stdout)"
    )


def write_json(file: Path | None, value: object) -> bool:
    """Write a value as JSON if asked for; True when it went to standard output instead of words."""
    if file is None:
        return False
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    if str(file) == "-":
        print(text.decode())
        return True
    file.write_bytes(text + b"\n")
    return False


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lay rows out under their headings: words to the left, numbers to the right, nothing cut off."""
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = [
            cell.ljust(width) if name in _WORDS else cell.rjust(width)
            for name, cell, width in zip(columns, line, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()
