"""What `baton up --plan` takes from its file, and what from the cluster it plans."""

from pathlib import Path

import pytest

from services.cli.planning import read_plan
from services.cluster.settings import ClusterSettings, EngineKind, PoolSettings
from services.domain.errors import ConfigurationInvalid
from services.engine.simulated.settings import SimulatedSettings
from services.router.settings import RouterSettings

CLUSTER = ClusterSettings(
    engine=EngineKind.SIMULATED,
    pools=PoolSettings(prefill=20, decode=20),
    simulated=SimulatedSettings(speedup=2.0, kv_blocks=8192, context_tokens_max=4096, sequences_max=7),
    router=RouterSettings(ttft_target_s=1.5, tpot_target_s=0.07),
)


def written(folder: Path, text: str) -> Path:
    """A settings file."""
    file = folder / "planner.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_a_file_everything_follows_from_the_cluster() -> None:
    """Targets are the router's, the kind is the engine, and no running worker is one too many."""
    planner = read_plan(None, CLUSTER).planner
    assert (planner.targets.ttft_s, planner.targets.tpot_s) == (1.5, 0.07)
    (kind,) = planner.kinds
    assert kind.model() == CLUSTER.simulated.effective_performance()
    assert (kind.kv_tokens, kind.sequences_max) == (8192 * 16, 7)
    assert kind.workers_max is not None
    assert kind.workers_max >= 40


def test_what_the_file_says_counts(tmp_path: Path) -> None:
    """Section by section: what it leaves out still follows from the cluster."""
    file = written(tmp_path, "planner: {look_s: 7, kinds: [{name: mine, workers_max: 3}]}\n")
    planner = read_plan(file, CLUSTER).planner
    assert planner.look_s == 7
    assert [(kind.name, kind.workers_max) for kind in planner.kinds] == [("mine", 3)]
    assert planner.targets.ttft_s == 1.5


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("observe: {source: gateways}\n", "observe"),
        ("target: {target: dry-run}\n", "target"),
        ("planner: {look: 1}\n", "planner"),
        ("planner: {kinds: []}\n", "planner.kinds"),
    ],
)
def test_a_file_for_something_else_refuses_the_start(tmp_path: Path, text: str, key: str) -> None:
    """Before any engine is started, by the name of the key."""
    with pytest.raises(ConfigurationInvalid, match=key):
        read_plan(written(tmp_path, text), CLUSTER)
