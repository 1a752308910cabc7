"""Decisions are functions of values: what a pure module may import, call and be."""

import ast
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from tests.house.tree import Import, imports, read, written_python

# Every module of these rooms is pure unless it is listed as a shell.
PURE_ROOMS = ("services/domain", "services/router", "planner")

# Pure modules that live in rooms of shells.
PURE_ELSEWHERE = frozenset(
    {
        "services/cluster/roster.py",
        "services/cluster/supervision.py",
        "services/prefill/ordering.py",
        "services/prefill/rivals.py",
        "services/prefill/room.py",
        "services/prefill/stalling.py",
    }
)

# The shells: they do the I/O of their room and hold no decision.
SHELLS: frozenset[str] = frozenset({
    "planner/journal.py", "planner/loop.py", "planner/observers/gateways.py",
    "planner/observers/prometheus.py", "planner/observers/settings.py",
    "planner/process.py", "planner/process_settings.py", "planner/proof/command.py",
    "planner/targets/dry_run.py", "planner/targets/kubernetes/api.py",
    "planner/targets/kubernetes/following.py", "planner/targets/kubernetes/leadership.py",
    "planner/targets/kubernetes/target.py", "planner/targets/local.py", "planner/targets/ray.py",
    "planner/targets/turning.py",
    "services/router/feed.py", "services/router/placer.py", "services/router/process.py",
    "services/router/process_settings.py",     "services/router/remote.py",
    "services/router/shell.py",
})  # fmt: skip

# Each lets in the world: time, chance, the machine, another thread, or a side effect.
IMPURE_LIBRARIES = frozenset({
    "asyncio", "concurrent", "contextvars", "ctypes", "datetime", "fcntl", "getpass", "glob", "http",
    "io", "locale", "logging", "mmap", "multiprocessing", "os", "pathlib", "platform", "queue", "random",
    "resource", "sched", "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver",
    "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid", "warnings",
})  # fmt: skip

# Values and arithmetic only. The domain may not have even these.
PURE_FOREIGN_LIBRARIES = frozenset({"msgspec", "numpy"})

# `hash` of text and `id` differ from process to process: a tie broken by them is not the same decision.
# A `__hash__` method may use `hash`; that is how a value becomes a key.
IMPURE_CALLS = frozenset({"breakpoint", "eval", "exec", "hash", "id", "input", "open", "print"})


def pure_modules() -> list[PurePosixPath]:
    """List the modules that must be pure."""
    return [
        path
        for path in written_python("services", "planner")
        if str(path) in PURE_ELSEWHERE
        or (any(path.is_relative_to(room) for room in PURE_ROOMS) and str(path) not in SHELLS)
    ]


def module_paths(taken: Import) -> tuple[str, ...]:
    """Name the files that an import of our own may mean: a submodule, a module or a package."""
    path = taken.module.replace(".", "/")
    inner = [f"{path}/{taken.name}"] if taken.name else []
    return tuple(f"{stem}{end}" for stem in [*inner, path] for end in (".py", "/__init__.py"))


def is_declaration(function: ast.AsyncFunctionDef) -> bool:
    """Tell whether a function has no body but a docstring and `...`: a port's method, which runs nothing."""
    return all(isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) for part in function.body)


def impurities(source: str, *, pure_paths: frozenset[str], foreign: frozenset[str]) -> Iterator[str]:
    """Say what makes a source impure.

    Args:
        source: Python text.
        pure_paths: our own modules that it may import, as paths.
        foreign: installed libraries that it may import.
    """
    for taken in imports(source):
        if taken.library in ("services", "planner"):
            first = next((path for path in module_paths(taken) if path in pure_paths), None)
            if first is None:
                yield f"line {taken.line}: imports {taken.module}, which is not pure"
        elif taken.library in IMPURE_LIBRARIES:
            yield f"line {taken.line}: imports {taken.module}"
        elif taken.library not in sys.stdlib_module_names and taken.library not in foreign:
            yield f"line {taken.line}: imports the library {taken.library}"
    tree = ast.parse(source)
    in_hash_methods = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__hash__"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in in_hash_methods:
            continue
        if isinstance(node, ast.AsyncFunctionDef) and is_declaration(node):
            continue
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield f"line {node.lineno}: waits"
        elif isinstance(node, ast.Global):
            yield f"line {node.lineno}: changes a global"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            yield f"line {node.lineno}: calls {node.func.id}()"


def test_pure_modules_let_nothing_of_the_world_in() -> None:
    """A decision made twice with the same inputs is the same decision: its module sees nothing else."""
    modules = pure_modules()
    pure_paths = frozenset(map(str, modules))
    found = [
        f"{path}, {fault}"
        for path in modules
        for fault in impurities(
            read(path),
            pure_paths=pure_paths,
            foreign=frozenset() if path.is_relative_to("services/domain") else PURE_FOREIGN_LIBRARIES,
        )
    ]
    assert not found, "\n".join(found)


def test_the_domain_stands_on_the_standard_library_and_on_itself() -> None:
    """The vocabulary can be read, tested and reused with nothing installed."""
    found = [
        f"{path}, line {taken.line}: imports {taken.module}"
        for path in written_python("services/domain")
        for taken in imports(read(path))
        if taken.library not in sys.stdlib_module_names and not taken.module.startswith("services.domain")
    ]
    assert not found, "\n".join(found)


def test_the_lists_name_files_that_exist() -> None:
    """An entry that outlived its file would hide the next one of that name."""
    present = frozenset(map(str, written_python("services", "planner")))
    assert present >= SHELLS
    assert present >= PURE_ELSEWHERE


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "def f():\n    from random import choice",
        "import os.path",
        "from collections import deque\nimport torch",
        "from services.bus import port",
        "from services.domain.blocks import x\nfrom services.runtime.clock import Clock",
        "async def f():\n    return 1",
        "def f(x): return hash(x)",
        "def f(): print(1)",
        "n = 0\ndef f():\n    global n\n    n = 1",
    ],
)
def test_an_impure_source_is_found(source: str) -> None:
    """The purity rule can fail: each way to let the world in is reported once."""
    pure_paths = frozenset({"services/domain/blocks.py"})
    assert len(list(impurities(source, pure_paths=pure_paths, foreign=frozenset()))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import math\nfrom dataclasses import dataclass",
        "from services.domain import blocks",
        "from services.domain.blocks import BlockHash",
        "import numpy as np",
        "class Port(Protocol):\n    async def ask(self) -> int:\n        'Ask.'\n        ...",
        "class K:\n    def __hash__(self):\n        return hash(self.a)",
    ],
)
def test_a_pure_source_is_left_alone(source: str) -> None:
    """The purity rule reports nothing that is a function of values."""
    pure_paths = frozenset({"services/domain/blocks.py"})
    assert not list(impurities(source, pure_paths=pure_paths, foreign=frozenset({"numpy"})))
