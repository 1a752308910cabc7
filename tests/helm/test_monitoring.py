"""Alerts and panels ask for metrics that are counted."""

import json
import re

import pytest

from services.runtime.metrics import TABLE, Kind
from tests.helm.chart import RELEASE, render, values_of

_NAME = re.compile(r"\bbaton_[a-z_]+(?=\{)")
_KNOWN = {
    name
    for row in TABLE
    for name in (
        [row.name]
        if row.kind is not Kind.HISTOGRAM
        else [row.name + end for end in ("_bucket", "_sum", "_count")]
    )
}


def _expressions() -> dict[str, str]:
    """Every expression that the chart asks Prometheus, by where it stands."""
    manifests = render(values_of("production"))
    (rules,) = [m for m in manifests if m["kind"] == "PrometheusRule"]
    (board,) = [m for m in manifests if m["metadata"]["name"] == f"{RELEASE}-dashboard"]
    found = {rule["alert"]: rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]}
    for panel in json.loads(board["data"]["baton.json"])["panels"]:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    return found


@pytest.mark.parametrize(("place", "expression"), _expressions().items())
def test_an_expression_names_what_is_counted(place: str, expression: str) -> None:
    """Each name is in the one table of metrics, each selects this release, and brackets close."""
    names = _NAME.findall(expression)
    assert names, place
    assert set(names) <= _KNOWN, place
    assert expression.count('namespace="serving",pod=~"baton-.*"') == len(names)
    assert "{{" not in expression
    for opened, closed in ("()", "[]", "{}"):
        assert expression.count(opened) == expression.count(closed)


def test_labels_that_are_told_exist() -> None:
    """What an expression selects or groups by is a label of its metric, or one that Prometheus adds."""
    added = {"le", "namespace", "pod"}
    for place, expression in _expressions().items():
        rows = [row for row in TABLE if re.search(rf"\b{row.name}(_bucket)?\b", expression)]
        allowed = added | {label for row in rows for label in row.labels}
        used = set(re.findall(r"([a-z]+)=~?\"", expression))
        used |= {label for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(", ")}
        assert used <= allowed, place
