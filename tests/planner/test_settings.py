"""A wrong value refuses the start and names the key."""

import pytest

from planner.process_settings import PlannerProcessSettings
from planner.settings import PlannerSettings
from services.domain.errors import ConfigurationInvalid
from services.runtime.settings import dump_yaml, parse


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"targets": {"ttft_s": 0}}, "ttft_s"),
        ({"targets": {"attainment_frac": 1.0}}, "attainment_frac"),
        ({"kinds": []}, "kinds"),
        ({"kinds": [{"name": "a"}, {"name": "a"}]}, "kinds"),
        ({"kinds": [{"performance": "no-such-engine"}]}, "performance"),
        ({"kinds": [{"price_per_hour": 0}]}, "price_per_hour"),
        ({"limits": {"prefill": {"workers_min": 5, "workers_max": 4}}}, "prefill.workers_max"),
        ({"limits": {"decode": {"workers_min": 0}}}, "decode.workers_min"),
        ({"limits": {"prefill": {"workers_min": 0}}, "spills": False}, "prefill.workers_min"),
        ({"limits": {"price_per_hour_max": 1.5}}, "price_per_hour_max"),
        ({"limits": {"power_w_max": 100}, "kinds": [{"power_w": 700}]}, "power_w_max"),
        ({"look_s": 60, "stale_after_s": 45}, "stale_after_s"),
        ({"headroom": 1.2}, "headroom"),
    ],
)
def test_a_wrong_value_names_its_key(values: dict[str, object], key: str) -> None:
    """By the same message that `baton planner` prints."""
    with pytest.raises(ConfigurationInvalid, match=key):
        parse(PlannerSettings, values, source="planner.yaml")


KUBERNETES = {"target": "kubernetes", "namespace": "llm"}
WORKLOAD = {"phase": "prefill", "name": "baton-prefill"}


@pytest.mark.parametrize(
    ("target", "planner", "key"),
    [
        ({**KUBERNETES, "workloads": [WORKLOAD]}, {}, "planner.limits.flips"),
        ({**KUBERNETES, "workloads": [WORKLOAD]}, {"limits": {"flips": True}}, "planner.limits.flips"),
        ({**KUBERNETES, "workloads": []}, {"limits": {"flips": False}}, "target.workloads"),
        ({**KUBERNETES, "workloads": [WORKLOAD, WORKLOAD]}, {"limits": {"flips": False}}, "target.workloads"),
        (
            {**KUBERNETES, "workloads": [{**WORKLOAD, "kind": "h100"}]},
            {"limits": {"flips": False}},
            "target.workloads.kind",
        ),
    ],
)
def test_a_target_that_does_not_fit_the_plan_refuses_the_start(
    target: dict[str, object], planner: dict[str, object], key: str
) -> None:
    """What a target cannot do is not asked of it silently."""
    with pytest.raises(ConfigurationInvalid, match=key):
        parse(PlannerProcessSettings, {"target": target, "planner": planner}, source="planner.yaml")


PREFILL_AND_DECODE = {"workloads": [WORKLOAD, {"phase": "decode", "name": "baton-decode"}]}


@pytest.mark.parametrize(
    "more",
    [{"bus": {}}, {"observe": {"source": "gateways", "bus": {}}}],
)
def test_workers_of_two_workloads_turn_where_a_bus_is_named(more: dict[str, object]) -> None:
    """One for each role, of one kind: then nothing stands in the way."""
    values = {"target": {**KUBERNETES, **PREFILL_AND_DECODE}, **more}
    assert parse(PlannerProcessSettings, values, source="planner.yaml").planner.limits.flips
    with pytest.raises(ConfigurationInvalid, match=r"planner\.limits\.flips.*NATS"):
        parse(PlannerProcessSettings, {"target": values["target"]}, source="planner.yaml")


def test_settings_come_back_as_they_were_written() -> None:
    """Defaults included."""
    import yaml  # the house's door for YAML is the runtime; here it only proves the round trip

    settings = PlannerProcessSettings()
    assert parse(PlannerProcessSettings, yaml.safe_load(dump_yaml(settings)), source="again") == settings
