"""Pages that are made from the code say what the code says."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta
from msgspec import inspect as shape

from services.cli import metrics_page, pages, settings_page
from services.cluster.settings import ClusterSettings
from services.runtime.metrics import TABLE
from services.runtime.settings import dump_yaml, parse, read_yaml
from tests.house.tree import ROOT

AGAIN = "run `.venv/bin/python -m services.cli.pages`"


class _Inner(msgspec.Struct):
    """What holds further settings."""

    depth: int = 1
    """Said under the field."""


class _Example(msgspec.Struct):
    """Every way to say, and not to say, what a field means."""

    width: Annotated[int, Meta(ge=1, description="Said in Meta.")]
    inner: _Inner
    several: tuple[_Inner, ...] = ()
    """Said under the
    field, over two lines."""
    silent_bytes: int = 4 * 1024 * 1024


def _settings_of(kind: type) -> dict[str, settings_page.Setting]:
    found = shape.type_info(kind)
    assert isinstance(found, shape.StructType)
    return {setting.name: setting for setting in settings_page.list_settings(found)}


def test_the_page_of_settings_is_fresh() -> None:
    """What a user reads about a setting is what the struct that parses it says."""
    assert (ROOT / pages.SETTINGS).read_text(encoding="utf-8") == settings_page.render(), AGAIN


def test_the_table_of_metrics_is_fresh() -> None:
    """The page lists the metrics that are counted, no more and no fewer."""
    page = (ROOT / pages.OBSERVABILITY).read_text(encoding="utf-8")
    assert page == metrics_page.refresh(page), AGAIN
    assert all(f"`{row.name}`" in page for row in TABLE)


def test_every_setting_says_what_it_means() -> None:
    """A new setting without a meaning does not get past this test."""
    silent = [
        f"{section.kind.__name__}.{setting.name}"
        for section in settings_page.sections()
        for setting in section.settings
        if not setting.meaning
    ]
    assert not silent


def test_every_key_of_a_file_is_on_the_page() -> None:
    """Whatever `baton settings` prints can be looked up: the walk through the structs forgets no branch."""
    listed = {
        f"{place}.{setting.name}".lstrip(".")
        for section in settings_page.sections()
        for place in section.places
        for setting in section.settings
    }
    assert set(_keys(msgspec.to_builtins(ClusterSettings()), "")) <= listed


def _keys(values: dict[str, object], at: str) -> list[str]:
    found = []
    for name, value in values.items():
        found.append(f"{at}{name}")
        if isinstance(value, dict):
            found += _keys(value, f"{at}{name}.")
    return found


def test_a_meaning_is_found_wherever_it_may_stand() -> None:
    """Meta, a string under the field, the docstring of an inner section: each is a place for a meaning."""
    found = _settings_of(_Example)
    assert found["width"].meaning == "Said in Meta."
    assert found["inner"].meaning == "What holds further settings."
    assert found["several"].meaning == "Said under the field, over two lines."


def test_a_silent_setting_is_found() -> None:
    """The rule can fail: a field that says nothing has an empty meaning, not its neighbour's."""
    assert _settings_of(_Example)["silent_bytes"].meaning == ""


def test_types_bounds_and_defaults_are_told() -> None:
    """A reader sees what a value may be without reading code."""
    found = _settings_of(_Example)
    assert (found["width"].kind, found["width"].default) == ("integer, ≥ 1", "required")
    assert found["several"].kind == "list of section"
    assert found["silent_bytes"].default == "`4194304` (4 MiB)"


def test_a_page_without_marks_is_refused() -> None:
    """A table is never written to a place that nobody marked."""
    with pytest.raises(ValueError, match="lacks"):
        metrics_page.refresh("no marks")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"engine": "simulated", "pools": {"both": 2, "decode": 0}, "cores": [[0], [1], [0]]},
        {"vllm": {"model": "m", "kv_cache_bytes": None, "extra_engine_args": {"seed": 1}}},
        {"nats": {"url": "tls://nats.example", "user": "u", "password_env": "P", "tls": {"ca_file": "ca"}}},
    ],
)
def test_printed_settings_can_be_read_again(values: dict[str, object], tmp_path: Path) -> None:
    """What `baton settings` prints is a file that `--config` turns into the same settings."""
    settings = parse(ClusterSettings, values, source="test")
    file = tmp_path / "cluster.yaml"
    file.write_text(dump_yaml(settings), encoding="utf-8")
    assert parse(ClusterSettings, read_yaml(file), source="file") == settings
