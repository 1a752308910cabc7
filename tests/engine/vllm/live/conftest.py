"""The rig that live tests of one module share."""

from collections.abc import Iterator

import pytest

from tests.engine.vllm.live.rig import VllmRig, open_rig


@pytest.fixture(scope="package")
def rig() -> Iterator[VllmRig]:
    """Two real engines for all live tests of this folder."""
    with open_rig() as opened:
        yield opened
