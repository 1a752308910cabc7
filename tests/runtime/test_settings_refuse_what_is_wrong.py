"""Settings: a wrong value, an unknown key or an impossible combination refuses the start."""

from pathlib import Path

import pytest

from services.cluster.settings import ClusterSettings
from services.domain.errors import ConfigurationInvalid
from services.runtime.settings import dump_json, override, parse, read_yaml


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"pool": {}}, "pool"),
        ({"pools": {"prefil": 1}}, "pools.prefil"),
        ({"pools": {"prefill": "many"}}, "pools.prefill"),
        ({"pools": {"decode": 0, "both": 0}}, "pools.decode"),
        ({"pools": {"prefill": -1}}, "pools.prefill"),
        ({"engine": "magic"}, "engine"),
        ({"cores": [[0], [1], [2]]}, "cores"),
        ({"start_timeout_s": 0}, "start_timeout_s"),
        ({"edge": {"http_port": 70000}}, "edge"),
        ({"simulated": {"kv_blocks": 0}}, "kv_blocks"),
    ],
)
def test_the_key_at_fault_is_named(values: dict[str, object], key: str) -> None:
    """Whatever is wrong, the message says where."""
    with pytest.raises(ConfigurationInvalid) as refused:
        parse(ClusterSettings, values, source="test.yaml")
    assert key in str(refused.value)


def test_settings_survive_the_way_to_another_process(tmp_path: Path) -> None:
    """What is written as JSON for a child process is read back equal."""
    settings = parse(ClusterSettings, {"pools": {"prefill": 3}, "engine": "simulated"}, source="test")
    file = tmp_path / "settings.json"
    file.write_bytes(dump_json(settings))
    assert parse(ClusterSettings, read_yaml(file), source="test") == settings


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """Missing, not YAML, not a mapping: each is refused with the file's name."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    scalar = tmp_path / "scalar.yaml"
    scalar.write_text("just text")
    for file in (tmp_path / "missing.yaml", broken, scalar):
        with pytest.raises(ConfigurationInvalid) as refused:
            read_yaml(file)
        assert str(file) in str(refused.value)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    """Nothing said is everything by default."""
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert parse(ClusterSettings, read_yaml(empty), source="empty") == ClusterSettings()


@pytest.mark.parametrize("text", ["1e-9", "5e10", "-2E+3", "2.5e-7", ".5e1", "7.e2"])
def test_a_number_with_an_exponent_is_a_number(tmp_path: Path, text: str) -> None:
    """JSON writes small numbers so, and performance models are made of them."""
    file = tmp_path / "settings.json"
    file.write_text(f'{{"value": {text}, "name": "1e5x", "count": 7}}', encoding="utf-8")
    assert read_yaml(file) == {"value": float(text), "name": "1e5x", "count": 7}


def test_single_keys_are_set_over_a_file() -> None:
    """What only a pod knows is put in at any depth, in lists too, with the type JSON gives it."""
    values: dict[str, object] = {"workers": [{"worker_id": "w"}], "link": {"port": 7000}}
    override(
        values,
        ["workers.0.worker_id=pod-1", "link.advertised_host=10.0.0.7", "bus.replicas=3", "ports_file=null"],
    )
    assert values == {
        "workers": [{"worker_id": "pod-1"}],
        "link": {"port": 7000, "advertised_host": "10.0.0.7"},
        "bus": {"replicas": 3},
        "ports_file": None,
    }


@pytest.mark.parametrize("text", ["1e5", "007", "1.2.3.4", "::1", "True", "", "a=b", "-"])
def test_what_is_no_json_literal_stays_text(text: str) -> None:
    """A pod's name or address is never taken for a number."""
    assert override({}, [f"key={text}"]) == {"key": text}


@pytest.mark.parametrize(
    "assignment",
    ["link", "=x", "workers.1.worker_id=x", "workers.first.worker_id=x", "workers.0=x", "name.a=x"],
)
def test_an_assignment_that_leads_nowhere_is_refused(assignment: str) -> None:
    """A key is never invented inside a list or a plain value; the message repeats the assignment's key."""
    with pytest.raises(ConfigurationInvalid, match="--set"):
        override({"workers": [{}], "name": "n"}, [assignment])
