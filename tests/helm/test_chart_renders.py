"""The chart renders what a reviewer has seen, and Helm and Kubernetes take it."""

import json

import helm_python
import pytest

from services.cli import pages
from services.cli.chart import files
from tests.helm.chart import CHART, VALUES, golden_text, pods, rendered, values_of
from tests.helm.foreign_schemas import foreign_faults, is_foreign
from tests.helm.golden import GOLDEN
from tests.helm.schemas import faults
from tests.house.tree import ROOT

KUBERNETES = ("1.35", "1.36", "1.37")
"""Versions whose schemas manifests must fit; the chart asks for 1.30 and later."""
WARNING = 2
"""Helm's severity from which strict linting fails."""


@pytest.mark.parametrize("name", [None, *VALUES])
def test_helm_lints_it_strictly(name: str | None) -> None:
    """Neither warning nor error, with the chart's defaults and with each values file."""
    report = helm_python.lint(CHART, values_of(name), strict=True, kube_version=f"v{KUBERNETES[-1]}.0")
    assert not report["errors"]
    assert not [message for message in report["messages"] if message["severity"] >= WARNING]


@pytest.mark.parametrize("name", VALUES)
def test_it_renders_what_was_reviewed(name: str) -> None:
    """A change of what is installed is seen in review as itself, not as a change of a template."""
    golden = (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")
    assert golden_text(name) == golden, "run `.venv/bin/python -m tests.helm.golden`, read the diff"


def test_no_golden_file_is_left_over() -> None:
    """Each golden file belongs to a values file."""
    assert sorted(path.stem for path in GOLDEN.glob("*.yaml")) == list(VALUES)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", VALUES)
def test_manifests_fit_the_schemas_of_kubernetes(name: str, version: str) -> None:
    """Every manifest is what the API server's own schema says, with no field that it does not know."""
    found: list[str] = []
    for manifest in rendered(name):
        found += foreign_faults(manifest) if is_foreign(manifest) else faults(manifest, version)
    for pod in pods(rendered(name)):
        whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {}, "template": pod.template}
        found += faults(whole, version)
    assert not found, "\n".join(found)


def test_an_unknown_field_is_found() -> None:
    """The check can fail: a misspelt field of a container is told, and one of another project's resource."""
    manifest = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
        "spec": {"containers": [{"name": "x", "image": "x", "comand": ["x"]}]},
    }  # fmt: skip
    assert "comand" in "".join(faults(manifest, KUBERNETES[-1]))
    (rule,) = [m for m in rendered("production") if m["kind"] == "PrometheusRule"]
    rule["spec"]["groups"][0]["rules"][0]["fro"] = "1m"
    assert "fro" in "".join(foreign_faults(rule))


def test_values_and_their_schema_are_fresh() -> None:
    """What users read and what Helm checks is what the structs say."""
    again = "run `.venv/bin/python -m services.cli.pages`"
    assert (ROOT / pages.CHART_VALUES).read_text(encoding="utf-8") == files.render_values(), again
    assert (ROOT / pages.CHART_SCHEMA).read_text(encoding="utf-8") == files.render_schema(), again


def test_every_key_of_the_values_says_what_it_means() -> None:
    """A key without a meaning does not get past this test, wherever in the values it stands."""
    schema = json.loads(files.render_schema())
    sections = {"values": schema, **schema["$defs"]}
    silent = [
        f"{section}.{key}"
        for section, found in sections.items()
        for key, about in found.get("properties", {}).items()
        if not about.get("description")
    ]
    assert not silent
