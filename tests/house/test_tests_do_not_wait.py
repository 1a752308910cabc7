"""Tests wait on events, never on a real clock, and replace none of our modules by a mock."""

import ast
from collections.abc import Iterator

import pytest

from tests.house.tree import imports, read, written_python


def is_zero(node: ast.expr) -> bool:
    """Tell whether an argument is the literal 0: `asyncio.sleep(0)` gives way, it does not wait."""
    return isinstance(node, ast.Constant) and node.value == 0


def polls_with_a_deadline(tree: ast.Module) -> set[ast.AST]:
    """Collect what stands in a loop within `asyncio.timeout`: how one waits for another process."""
    return {
        inner
        for block in ast.walk(tree)
        if isinstance(block, ast.AsyncWith)
        and any(ast.unparse(item.context_expr).startswith("asyncio.timeout") for item in block.items)
        for loop in ast.walk(block)
        if isinstance(loop, ast.While)
        for inner in ast.walk(loop)
    }


def faults(source: str) -> Iterator[str]:
    """Say where a test sleeps or mocks."""
    for taken in imports(source):
        if taken.module.startswith("unittest") or taken.library in ("mock", "pytest_mock"):
            yield f"line {taken.line}: imports {taken.module}"
        if taken.name == "sleep":
            yield f"line {taken.line}: imports sleep by name, which hides it from this rule"
    tree = ast.parse(source)
    # On the virtual clock sleeping is free: a module that plays its stories there may.
    virtual = any(isinstance(node, ast.Name) and node.id == "run_virtual" for node in ast.walk(tree))
    polling = polls_with_a_deadline(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr="sleep")):
                yield f"line {node.lineno}: blocks"
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="asyncio" | "anyio"), attr="sleep"), args=[delay]
            ) if not (virtual or is_zero(delay) or node in polling):
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
        "def test_x():\n    run_virtual(story())\n    time.sleep(1)",
        "async def f():\n    await asyncio.sleep(0.1)",
        "async def f():\n    while g():\n        await asyncio.sleep(0.1)",
        "async def f():\n    async with asyncio.timeout(9):\n        await asyncio.sleep(0.1)",
        "from asyncio import sleep",
        "from unittest.mock import Mock",
    ],
)
def test_a_sleep_or_a_mock_is_found(source: str) -> None:
    """The rule can fail."""
    assert len(list(faults(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "async def f():\n    await asyncio.sleep(0)",
        "def test_x():\n    async def story():\n        await asyncio.sleep(5)\n    run_virtual(story())",
        "async def f():\n  async with asyncio.timeout(9):\n    while g():\n      await asyncio.sleep(0.1)",
    ],
)
def test_waiting_that_is_not_on_a_clock_is_left_alone(source: str) -> None:
    """Giving way, virtual time, and asking another process again and again until a deadline."""
    assert not list(faults(source))
