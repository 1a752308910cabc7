"""A wrong value stops the installation with a message that names the key."""

from typing import Any

import helm_python
import pytest

from services.cli.chart.values import SET_BY_THE_CHART
from tests.helm.chart import merged, render, values_of

GPU_POOL: dict[str, Any] = {"name": "gpu", "gpu": {"count": 1}}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"gatway": {}}, "gatway"),
        ({"gateway": {"replicas": 0}}, "/gateway/replicas"),
        ({"gateway": {"replicas": "two"}}, "/gateway/replicas"),
        ({"nats": {"replicas": 2}}, "/nats/replicas"),
        ({"settings": {"router": {"ttft_target_s": -1}}}, "/settings/router/ttft_target_s"),
        ({"settings": {"router": {"ttft_target": 1}}}, "ttft_target"),
        ({"settings": {"bus": {"limits": {"claim_ttl_s": 0}}}}, "/settings/bus/limits/claim_ttl_s"),
        ({"settings": {"log_format": "xml"}}, "/settings/log_format"),
        ({"poolDefaults": {"vllm": {"lease_s": 1}}}, "/poolDefaults/vllm/lease_s"),
        ({"poolDefaults": {"vllm": {"dtype": "int3"}}}, "/poolDefaults/vllm/dtype"),
        ({"pools": []}, "/pools"),
        ({"pools": [{"role": "decode"}]}, "name"),
        ({"pools": [{"name": "Upper"}]}, "/pools/0/name"),
        ({"pools": [{"name": "a", "role": "prefil"}]}, "/pools/0/role"),
        ({"pools": [{"name": "a", "vllm": {"sequences": 1}}]}, "sequences"),
        ({"models": [{"name": ""}]}, "/models/0/name"),
        ({"networkPolicy": {"enabled": "yes"}}, "/networkPolicy/enabled"),
    ],
)
def test_by_the_schema(changes: dict[str, Any], key: str) -> None:
    """A misspelt key, a wrong type or a value out of bounds is told before anything is rendered."""
    with pytest.raises(helm_python.HelmValuesError) as refused:
        render(merged(values_of("laptop"), changes))
    assert key in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"pools": [{"name": "a"}, {"name": "a"}]}, "pools: a"),
        ({"pools": [{"name": "nats"}]}, "pools: nats"),
        ({"pools": [{"name": "a", "model": "other"}]}, "pools: a: model"),
        ({"pools": [GPU_POOL]}, "pools: gpu: vllm.performance"),
        ({"poolDefaults": {"drainTimeoutSeconds": 30}}, "drainTimeoutSeconds (30)"),
        ({"nats": {"enabled": False}}, "nats.url"),
        ({"nats": {"password": {"name": "s"}}}, "nats.password.key"),
        ({"tls": {"links": {"enabled": True}}}, "tls.links.secretName"),
        ({"models": [{"name": "m", "source": {"hub": "o/m", "revision": "1"}}]}, "modelCache.enabled"),
        (
            {"models": [{"name": "m", "source": {"hub": "o/m"}}], "modelCache": {"enabled": True}},
            "source.revision",
        ),
        ({"planner": {"enabled": True}}, "planner.pools"),
        ({"planner": {"enabled": True, "pools": [{"name": "other"}]}}, "planner.pools: other"),
        (
            {"planner": {"enabled": True, "pools": [{"name": "decode"}]}, "gateway": {"replicas": 2}},
            "planner.prometheusUrl",
        ),
        ({"gateway": {"ingress": {"enabled": True}}}, "gateway.ingress.host"),
        ({"gateway": {"httpRoute": {"enabled": True}}}, "gateway.httpRoute.parentRefs"),
    ],
)
def test_by_rules_over_several_keys(changes: dict[str, Any], key: str) -> None:
    """What is possible alone and impossible together is told with the key to change."""
    with pytest.raises(helm_python.HelmError) as refused:
        render(merged(values_of("laptop"), changes))
    assert key in str(refused.value)


def _where(kind: str, key: str) -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = {
        "BusSettings": {"settings": {"bus": {key: "x"}}},
        "LinkSettings": {"settings": {"link": {key: "x"}}},
        "EdgeSettings": {"settings": {"edge": {key: "x"}}},
        "WorkerSettings": {"poolDefaults": {"worker": {key: "x"}}},
        "VllmSettings": {"poolDefaults": {"vllm": {key: "x"}}},
        "SimulatedSettings": {"poolDefaults": {"simulated": {key: "x"}}},
        "LimitSettings": {"planner": {"settings": {"limits": {key: True}}}},
    }
    return sections[kind]


@pytest.mark.parametrize(
    ("kind", "key"), [(kind.__name__, key) for kind, keys in SET_BY_THE_CHART.items() for key in keys]
)
def test_what_the_chart_sets_cannot_be_set_beside_it(kind: str, key: str) -> None:
    """A port or an address that the chart's objects agree on is no setting of its user's."""
    with pytest.raises(helm_python.HelmValuesError, match=key):
        render(merged(values_of("laptop"), _where(kind, key)))
