"""The rendered planner at an API server: it scales rendered pools, turns, drains, and leaves a held pool."""

from pathlib import Path

import httpx
import pytest

from tests.helm.chart import NAMESPACE
from tests.helm.planned import PLANNER, WORKLOADS, Api, playing, story
from tests.planner.api_server import ApiServer
from tests.planner.kubernetes.api_state import ApiState


@pytest.mark.timeout(300)  # six starts of a Python process, on whatever machine this is
async def test_the_planner_scales_turns_holds_and_drains(tmp_path: Path) -> None:
    """All commands as the chart renders them, real NATS and processes; every question is answered."""
    state = ApiState(tokens={f"Bearer {one}" for one in ("people", "planner")})
    for name in WORKLOADS.values():
        state.workload(f"apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}", 1)
    state.lease(f"apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{PLANNER}")
    server = ApiServer(state)
    headers = {"Authorization": "Bearer people"}
    try:
        async with httpx.AsyncClient(base_url=server.url, headers=headers) as people:
            api = Api(people=people, url=server.url, namespace=NAMESPACE, account={"token": "planner"})
            async with playing(tmp_path, api) as stage:
                assert await story(stage, print) > 0
    finally:
        server.close()
