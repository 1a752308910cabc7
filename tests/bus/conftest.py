"""The arenas of the contract suite."""

from collections.abc import Iterator

import pytest

from tests.bus.arenas import Arena, MemoryArena, NatsArena


@pytest.fixture(scope="session")
def nats_arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsArena]:
    """A real server, started when the first story asks for it."""
    arena = NatsArena(tmp_path_factory.mktemp("nats"))
    arena.start()
    try:
        yield arena
    finally:
        arena.stop()


@pytest.fixture(params=["memory", "nats"])
def arena(request: pytest.FixtureRequest) -> Arena:
    """Each story is played in both."""
    if request.param == "memory":
        return MemoryArena()
    nats: NatsArena = request.getfixturevalue("nats_arena")
    return nats
