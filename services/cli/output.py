"""How subcommands print: a table for people, the same rows as JSON for programs.

Comes in: rows. Goes out: lines on standard output, or one JSON file.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

console = Console(highlight=False)
"""Standard output; plain text when it is no terminal."""

stderr = Console(stderr=True, highlight=False)
"""Progress and news that must not mix with answers."""


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


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Build a table; columns whose name ends in a unit are aligned right."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        drawn.add_column(
            name, justify="left" if name in ("worker", "phases", "state", "path", "note") else "right"
        )
    for row in rows:
        drawn.add_row(*row)
    return drawn
