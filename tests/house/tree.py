"""Reads the repository for the house tests.

Comes in: the working tree. Goes out: paths relative to its root, and what a Python source imports.
Invariant: nothing is imported or run, so a broken module is still judged. Rules live in the tests.
"""

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
GENERATED = PurePosixPath("services/wire/generated")
OWN_ROOTS = ("services", "planner", "tests")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported name: the absolute dotted module, what is taken from it (or ""), the line it stands on."""

    module: str
    name: str
    line: int

    @property
    def library(self) -> str:
        """The first part of the module: what one would install."""
        return self.module.partition(".")[0]


def repository_files() -> list[PurePosixPath]:
    """List every file that is committed or would be by `git add`, sorted."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {name for name in listing.stdout.split("\0") if name}
    return sorted(PurePosixPath(name) for name in names if (ROOT / name).is_file())


def written_python(*under: str) -> list[PurePosixPath]:
    """List Python files that a person wrote, below the given folders or anywhere."""
    return [
        path
        for path in repository_files()
        if path.suffix == ".py"
        and not path.is_relative_to(GENERATED)
        and (not under or any(path.is_relative_to(folder) for folder in under))
    ]


def read(path: PurePosixPath) -> str:
    """Return a file's text."""
    return (ROOT / path).read_text(encoding="utf-8")


def imports(source: str) -> Iterator[Import]:
    """Yield every import of a source, wherever it stands; relative ones are ruff's to forbid."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module=alias.name, name="", line=node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            for alias in node.names:
                yield Import(module=node.module, name=alias.name, line=node.lineno)
