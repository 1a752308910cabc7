"""Runs each contract test in both worlds."""

import pytest

from tests.link.rigs import GrpcWorld, MemoryWorld, World


@pytest.fixture(params=["memory", "grpc"])
def world(request: pytest.FixtureRequest) -> World:
    """Links in memory on a virtual clock, or gRPC over loopback."""
    return MemoryWorld() if request.param == "memory" else GrpcWorld()
