"""Read the text files of this package: named sections of alternatives, from which sentences are drawn.

In: a file with `[section]` lines, each followed by lines of alternatives divided by " | ". Out:
`Phrasebook`, which gives a section as one tuple or line by line. Invariant: the order of the file is kept,
so a seeded draw is the same everywhere. Not here: the questions and answers, which have marks of their own
(`conversations`).
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrasebook:
    """Sections by name; each is a tuple of lines, and each line a tuple of alternatives."""

    sections: dict[str, tuple[tuple[str, ...], ...]]

    def all_of(self, section: str) -> tuple[str, ...]:
        """Return every alternative of `section`, its lines joined."""
        return tuple(choice for line in self.sections[section] for choice in line)

    def with_prefix(self, prefix: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """Return the sections whose name begins with `prefix`, in the order of the file."""
        return tuple(lines for name, lines in self.sections.items() if name.startswith(prefix))


def load_phrasebook(file_name: str) -> Phrasebook:
    """Read a phrasebook that lies beside this module."""
    return parse_phrasebook((Path(__file__).parent / file_name).read_text(encoding="utf-8"))


def parse_phrasebook(text: str) -> Phrasebook:
    """Parse a phrasebook; its head, up to the first section, is a comment.

    Raises:
        ValueError: a section is empty or stands twice.
    """
    sections: dict[str, tuple[tuple[str, ...], ...]] = {}
    for block in text.strip().split("\n\n")[1:]:
        name, *lines = block.splitlines()
        section = name.removeprefix("[").removesuffix("]")
        if not lines or section in sections or name != f"[{section}]":
            raise ValueError(f"a section needs a name of its own and some lines: {name!r}")
        sections[section] = tuple(tuple(line.split(" | ")) for line in lines)
    return Phrasebook(sections=sections)
