"""The layout: top-level names, module names, sizes."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import pytest

from tests.house.tree import read, repository_files, written_python

TOP_LEVEL = frozenset({
    ".ci", ".gitignore", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "docs", "helm", "planner",
    "proto", "pyproject.toml", "services", "tests",
})  # fmt: skip

# Names that say nothing, so that everything ends up in them.
EMPTY_NAMES = frozenset({
    "base", "bases", "common", "commons", "core", "helper", "helpers", "lib", "manager", "managers", "misc",
    "shared", "tools", "util", "utils",
})  # fmt: skip

LINES_MAX = 400


def strays(paths: Iterable[PurePosixPath]) -> Iterator[str]:
    """Yield top-level names that are not part of the house."""
    yield from sorted({path.parts[0] for path in paths} - TOP_LEVEL)


def bad_names(path: PurePosixPath) -> Iterator[str]:
    """Yield the parts of a module's path that are empty words or hide a module of the standard library."""
    for part in [*path.parent.parts, path.stem]:
        if part in EMPTY_NAMES:
            yield f"{path}: '{part}' says nothing"
        elif part in sys.stdlib_module_names and not part.startswith("__"):
            yield f"{path}: '{part}' is a module of the standard library"


def test_the_top_level_holds_the_house_and_nothing_else() -> None:
    """A reader who lists the root sees the same few names for ever."""
    assert not list(strays(repository_files()))


def test_a_stray_top_level_name_is_found() -> None:
    """The rule can fail, for a file and for a folder."""
    assert list(strays([PurePosixPath("notes.txt"), PurePosixPath("src/a.py")])) == ["notes.txt", "src"]


def test_proto_is_no_python_package() -> None:
    """An installed distribution owns the import name `proto`; ours must never shadow it."""
    assert not [path for path in repository_files() if path.parts[0] == "proto" and path.suffix == ".py"]


def test_modules_have_names_of_their_own() -> None:
    """A module is named by a noun of ours: no catch-all, no name that the standard library has."""
    found = [fault for path in written_python("services", "planner") for fault in bad_names(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", ["services/router/utils.py", "services/core/x.py", "planner/queue.py"])
def test_a_bad_module_name_is_found(path: str) -> None:
    """The rule can fail, for a module and for a package."""
    assert list(bad_names(PurePosixPath(path)))


def test_files_stay_short() -> None:
    """A file has one subject; past the ceiling it has two."""
    lengths = {path: read(path).count("\n") for path in written_python()}
    assert not {str(path): length for path, length in lengths.items() if length > LINES_MAX}


def test_every_package_says_what_it_is() -> None:
    """A room introduces itself: its `__init__.py` has a docstring, and is there at all."""
    modules = written_python("services", "planner")
    packages = {path.parent for path in modules}
    assert not [str(package) for package in packages if package / "__init__.py" not in modules]
    assert not [
        str(path) for path in modules if path.name == "__init__.py" and not read(path).startswith('"""')
    ]
