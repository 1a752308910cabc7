"""One simulated cluster, brought up by the command, for all tests of this folder."""

import asyncio
from collections.abc import Generator, Iterator

import pytest

from tests.cli.command import SIMULATED, baton_up
from tests.live.cluster import RunningCluster, log_tails


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of running clusters with a test that failed."""
    report = yield
    if report.failed:
        report.sections.extend(log_tails())
    return report


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Two prefill and two decode workers with simulated engines."""
    folder = tmp_path_factory.mktemp("up")
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        up = baton_up(folder, *SIMULATED, "--prefill", "2", "--decode", "2")
        running = runner.run(up.__aenter__())
        try:
            yield runner.run(running.becomes_ready())
        finally:
            runner.run(up.__aexit__(None, None, None))
