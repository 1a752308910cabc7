"""Tests wait on events, never on the clock, and replace none of our modules by a mock."""

import ast
from collections.abc import Iterator

import pytest

from tests.house.tree import imports, read, written_python


def is_zero(node: ast.expr) -> bool:
    """Tell whether an argument is the literal 0: `asyncio.sleep(0)` gives way, it does not wait."""
    return isinstance(node, ast.Constant) and node.value == 0


def faults(source: str) -> Iterator[str]:
    """Say where a test sleeps or mocks."""
    for taken in imports(source):
        if taken.module.startswith("unittest") or taken.library in ("mock", "pytest_mock"):
            yield f"line {taken.line}: imports {taken.module}"
        if taken.name == "sleep":
            yield f"line {taken.line}: imports sleep by name, which hides it from this rule"
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="time" | "asyncio" | "anyio"), attr="sleep"),
                args=[delay],
            ) if not is_zero(delay):
                yield f"line {node.lineno}: sleeps"


def test_no_test_sleeps_or_mocks() -> None:
    """A test that sleeps is slow on a fast machine and wrong on a slow one; a mock proves itself."""
    found = [
        f"{path}, {fault}"
        for path in written_python("tests")
        if not path.is_relative_to("tests/bench")
        for fault in faults(read(path))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.sleep(1)",
        "async def f():\n    await asyncio.sleep(0.1)",
        "from asyncio import sleep",
        "from unittest.mock import Mock",
    ],
)
def test_a_sleep_or_a_mock_is_found(source: str) -> None:
    """The rule can fail."""
    assert len(list(faults(source))) == 1


def test_giving_way_is_left_alone() -> None:
    """`asyncio.sleep(0)` lets other tasks run and waits for nothing."""
    assert not list(faults("async def f():\n    await asyncio.sleep(0)"))
