"""What people wrote in the documentation holds: commands, links, keys, metrics, paths, errors."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect as shape

from services.cli import settings_page
from services.cli.__main__ import make_parser
from services.cli.chart.values import ChartValues
from services.domain.errors import LEAVES
from services.gateway.edge.error_table import TABLE as ERRORS
from services.gateway.edge.openapi import describe
from services.runtime.metrics import TABLE as METRICS
from tests.house.tree import ROOT

PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
)
FENCE = re.compile(r"^```[a-z]*\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
KEY = re.compile(r"`(?P<key>(?:edge|conductor|router|vllm|nats|pools|model|link|simulated)\.[a-z_.]+)`")
METRIC = re.compile(r"\bbaton_[a-z0-9_]+")
NOT_METRICS = frozenset({"baton_progress_delay_us"})
RESERVED = frozenset({"rate_limited", "deadline_unmeetable"})


def commands(text: str) -> Iterator[str]:
    """Yield the arguments of each `baton` command in code blocks that show what to type."""
    for fence in FENCE.finditer(text):
        for line in fence["body"].replace("\\\n", " ").splitlines():
            if line.startswith((".venv/bin/baton ", "baton ")):
                yield re.split(r"\s+[#<>|]", line, maxsplit=1)[0].split("baton ", 1)[1]


def anchors(text: str) -> set[str]:
    """Name the headings of a page as links name them."""
    return {
        re.sub(r"[^\w\- ]", "", heading["text"].lower()).replace(" ", "-")
        for heading in HEADING.finditer(text)
    }


def dead_links(page: Path, text: str) -> Iterator[str]:
    """Yield links to files or headings that are not there."""
    for link in LINK.finditer(text):
        file, _, anchor = link["target"].partition("#")
        if "://" in file:
            continue
        target = page if not file else page.parent / file
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            yield f"{page.name}: {link['target']}"


def setting_keys() -> frozenset[str]:
    """All dotted keys of the page of settings, whatever file they belong to, and of the chart's values."""
    chart = set(_chart_keys(shape.type_info(ChartValues), ""))
    return frozenset(chart) | frozenset(
        f"{place.rsplit(': ', 1)[-1]}.{setting.name}".lstrip(".")
        for section in settings_page.sections()
        for place in section.places
        for setting in section.settings
    )


def _chart_keys(kind: shape.Type, at: str) -> Iterator[str]:
    if isinstance(kind, shape.StructType):
        for field in kind.fields:
            yield f"{at}{field.encode_name}"
            yield from _chart_keys(field.type, f"{at}{field.encode_name}.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_is_one_that_the_program_takes(page: Path) -> None:
    """Who copies a command from a page is not told that there is no such option."""
    parser = make_parser()
    for command in commands(page.read_text(encoding="utf-8")):
        parser.parse_args(shlex.split(command))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """A link inside the repository names a file, and a heading of it, that are there."""
    assert not list(dead_links(page, page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_and_metric_named_exists(page: Path) -> None:
    """A page that tells somebody to look at a metric or to change a key names it as the code does."""
    text = page.read_text(encoding="utf-8")
    keys = setting_keys()
    assert not [
        key["key"] for key in KEY.finditer(text) if key["key"] not in keys and not key["key"].endswith(".log")
    ]
    names = [row.name for row in METRICS]
    for found in METRIC.finditer(text):
        word = re.sub(r"_(bucket|sum|count)$", "", found[0])
        assert word in NOT_METRICS or any(n == word or n.startswith(word) for n in names), word


def test_every_path_of_the_api_is_described() -> None:
    """A route that the gateway serves is in the page of the API."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    paths = msgspec.json.decode(describe("0"), type=dict[str, object])["paths"]
    assert isinstance(paths, dict)
    assert not [path for path in paths if f"{path}`" not in text]


def test_every_error_is_described_with_its_status() -> None:
    """The table of errors in the page of the API is the one that the gateway answers by."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| \d{3} \|", line)]
    for leaf in LEAVES:
        row = ERRORS[leaf]
        told = (f"| {row.http_status} |", f"`{leaf.code}`", f"`{row.grpc_code.name}`")
        assert leaf.code in RESERVED or any(all(part in line for part in told) for line in rows), leaf.code


def test_a_wrong_command_a_dead_link_and_an_unknown_key_are_found() -> None:
    """The rules can fail."""
    assert list(commands("```\n.venv/bin/baton up --both 2  # two\n```\nbaton in a sentence")) == [
        "up --both 2"
    ]
    with pytest.raises(SystemExit):
        make_parser().parse_args(shlex.split("up --no-such-option"))
    page = ROOT / "README.md"
    assert list(dead_links(page, "[a](docs/none.md) [b](docs/api.md#none) [c](docs/api.md#grpc)")) == [
        "README.md: docs/none.md",
        "README.md: docs/api.md#none",
    ]
    assert "edge.http_port" in setting_keys()
    assert "edge.no_such_key" not in setting_keys()
