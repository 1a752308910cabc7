"""A target on Ray Serve and the server behind it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from planner.targets.ray import RayServe
from tests.planner.ray import scene
from tests.planner.ray.serve_server import TOKEN, ServeServer


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServeServer]:
    """Serve, and its token where Ray looks for it."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    opened = scene.server()
    yield opened
    opened.close()


@pytest.fixture
async def target(serve: ServeServer) -> AsyncIterator[RayServe]:
    """A target on it."""
    opened = scene.target(serve)
    yield opened
    await opened.close()
