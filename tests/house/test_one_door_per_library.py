"""Each foreign library has one door: the modules that may import it, and no others."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import pytest

from tests.house.tree import OWN_ROOTS, imports, read, written_python

ANYWHERE = ("services", "planner")

# Library as imported -> folders or modules that may import it. Tests may import what they prove.
DOORS: Mapping[str, tuple[str, ...]] = {
    "cryptography": ("services/bus/nats", "services/runtime"),
    "google": ("services/wire", "services/link", "services/gateway"),
    "grpc": ("services/cli", "services/gateway", "services/link", "services/router", "services/wire"),
    "grpc_health": ("services/gateway",),
    "grpc_reflection": ("services/gateway",),
    "grpc_tools": ("services/wire",),
    "httptools": ("services/gateway",),
    "httpx": ("planner/observers", "planner/targets", "services/cli", "services/cluster"),
    "jinja2": ("services/gateway", "services/tinymodel"),
    "kubernetes": ("planner",),
    "msgspec": ANYWHERE,  # typed values at the edges; the purity test keeps it out of the domain
    "nats": ("services/bus",),
    "nats_server": ("services/bus",),
    "nixl": ("services/engine/vllm",),
    "numpy": ANYWHERE,  # arithmetic; the purity test keeps it out of the domain
    "openai": ("services/cli",),
    "prometheus_client": ("services/runtime",),
    "ray": ("services/cluster/ray",),
    "rich": ("services/cli",),
    "safetensors": ("services/engine/vllm", "services/tinymodel"),
    "starlette": ("services/gateway",),
    "tokenizers": ("services/gateway", "services/tinymodel"),
    "torch": ("services/engine/vllm", "services/tinymodel"),
    "transformers": ("services/engine/vllm", "services/tinymodel"),
    "uvicorn": ("services/gateway",),
    "uvloop": ("services/cli", "services/gateway", "services/worker"),
    "vllm": ("services/engine/vllm",),
    "yaml": ("services/runtime",),
    "zmq": ("services/engine/vllm",),
}


def may_pass(path: PurePosixPath, doors: tuple[str, ...]) -> bool:
    """Tell whether a module is, or lies below, one of the doors."""
    return any(path.is_relative_to(door) or path == PurePosixPath(f"{door}.py") for door in doors)


def intrusions(path: PurePosixPath, source: str) -> Iterator[str]:
    """Say which foreign imports of a source go past the door, or have none."""
    for taken in imports(source):
        if taken.library in sys.stdlib_module_names or taken.library in OWN_ROOTS:
            continue
        doors = DOORS.get(taken.library)
        if doors is None:
            yield f"{path}, line {taken.line}: {taken.library} has no row in the table of doors"
        elif not may_pass(path, doors):
            yield f"{path}, line {taken.line}: {taken.library} is imported by {', '.join(doors)} only"


def test_foreign_libraries_are_imported_through_their_door() -> None:
    """Replacing or upgrading a library touches one room; a new library is placed before it is used."""
    found = [fault for path in written_python(*ANYWHERE) for fault in intrusions(path, read(path))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("services/gateway/edge.py", "import nats"),
        ("services/engine/simulated.py", "def f():\n    from vllm.v1 import engine"),
        ("services/router/pick.py", "import a_library_nobody_placed"),
        ("services/busy/x.py", "import nats.js"),
    ],
)
def test_an_import_past_the_door_is_found(path: str, source: str) -> None:
    """The rule can fail: lazily, by submodule, by a similar folder name or with an unknown library."""
    assert len(list(intrusions(PurePosixPath(path), source))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("services/bus/jetstream/client.py", "import nats"),
        ("services/engine/vllm.py", "import vllm"),
        ("services/router/pick.py", "import math\nfrom services.domain import blocks"),
    ],
)
def test_an_import_at_the_door_is_left_alone(path: str, source: str) -> None:
    """The rule reports neither the door, nor the standard library, nor our own modules."""
    assert not list(intrusions(PurePosixPath(path), source))
