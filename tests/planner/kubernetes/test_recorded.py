"""What a real kube-apiserver answered is understood, and the server of these tests answers alike."""

import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from planner.targets.kubernetes.objects import Event, Lease, Status, Workload, Workloads
from services.runtime.clock import run_virtual
from tests.planner.kubernetes.api_state import ApiState
from tests.planner.kubernetes.probes import DEPLOYMENTS, LEASES, Probes, gist
from tests.planner.kubernetes.wire import Wire

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text(encoding="utf-8"))
ANSWERS: dict[str, Any] = RECORDED["answers"]


def test_the_server_of_these_tests_answers_as_the_real_one() -> None:
    """Status, reason, sizes, holders, kept labels and events of every probe."""

    async def asked() -> dict[str, Any]:
        api = ApiState(tokens={"Bearer admin"}, version=1000)
        api.forget()
        api.workload(f"{DEPLOYMENTS.strip('/')}/probe", 2)
        api.lease(f"{LEASES.strip('/')}/probe")
        headers = {"Authorization": "Bearer admin"}
        client = httpx.AsyncClient(
            transport=Wire(api),
            base_url="http://api",
            headers=headers,
            timeout=120.0,
        )
        async with client:
            return await Probes(client).run()

    answers = run_virtual(asked())
    assert {name: gist(answer) for name, answer in answers.items()} == {
        name: gist(answer) for name, answer in ANSWERS.items()
    }


def test_recorded_workloads_are_understood() -> None:
    """A list, a scale and events, with all the fields that a real server sends."""
    listed = msgspec.convert(ANSWERS["list by name"]["body"], Workloads)
    assert [item.size for item in listed.items] == [2]
    assert listed.metadata.resource_version.isdigit()
    scale = msgspec.convert(ANSWERS["scale"]["body"], Workload)
    after = msgspec.convert(ANSWERS["list after scaling"]["body"], Workloads).items[0]
    assert (scale.size, scale.metadata.resource_version) == (4, after.metadata.resource_version)


def test_recorded_events_are_understood() -> None:
    """A change, and a bookmark that moves the version on without a spec."""
    events = [msgspec.json.decode(json.dumps(event), type=Event) for event in ANSWERS["watch"]["events"]]
    found = [(event.type, msgspec.json.decode(event.object, type=Workload)) for event in events]
    assert [workload.size for kind, workload in found if kind == "MODIFIED"] == [4, 6]
    marked = [workload.metadata.resource_version for kind, workload in found if kind == "BOOKMARK"]
    assert marked
    assert all(version.isdigit() for version in marked)


def test_a_recorded_expiry_is_understood() -> None:
    """A watch from long ago is answered 200 with one event of code 410."""
    (told,) = ANSWERS["watch from long ago"]["events"]
    event = msgspec.json.decode(json.dumps(told), type=Event)
    assert (event.type, msgspec.json.decode(event.object, type=Status).code) == ("ERROR", 410)


@pytest.mark.parametrize(
    ("name", "holder"), [("lease", None), ("lease taken", "me"), ("lease given back", "")]
)
def test_recorded_leases_are_understood(name: str, holder: str | None) -> None:
    """Free, held, given back."""
    assert msgspec.convert(ANSWERS[name]["body"], Lease).spec.holder_identity == holder
