"""What settings become on Ray Serve: applications, what replicas need, processes, a config file."""

import warnings

import msgspec
import pytest

from services.cluster.plan import ModelFacts
from services.cluster.ray.config_file import serve_config
from services.cluster.ray.plan import Place, applications, gateway_process, worker_process
from services.cluster.ray.settings import Part, RaySettings
from services.cluster.settings import (
    ClusterSettings,
    EngineKind,
    LauncherSettings,
    NatsSettings,
    PoolSettings,
)
from services.domain.errors import ConfigurationInvalid
from services.domain.worker import Phase
from services.engine.vllm.settings import NodesSettings, VllmSettings
from services.gateway.edge.settings import EdgeSettings
from services.gateway.process_settings import GatewayProcessSettings
from services.runtime.settings import parse
from services.worker.settings import WorkerProcessSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Ray's own imports
    from ray.serve.schema import ServeDeploySchema

    from services.cluster.ray import applications as builders

MODEL = ModelFacts(folder="/models/tiny", vocabulary_size=2048, eos_token_id=1)
NATS = NatsSettings(url="nats://10.0.0.2:4222")


def place(replica_id: str = "abc", *, rank: int = 0, cores: tuple[int, ...] = ()) -> Place:
    """A place on another machine."""
    return Place(replica_id=replica_id, host="10.0.0.7", rank=rank, cores=cores, folder="/run", parent_pid=1)


def test_each_part_is_an_application_that_only_a_pool_lets_scale() -> None:
    """A pool without workers is none; gateways come last, so that workers are there before them."""
    settings = ClusterSettings(name="shop", pools=PoolSettings(prefill=2, decode=0, both=3))
    found = [(each.name, each.part.value, each.replica_count) for each in applications(settings)]
    assert found == [("shop-prefill", "prefill", 2), ("shop-both", "both", 3), ("shop-gateway", "gateway", 1)]


@pytest.mark.parametrize(
    ("engine", "gpus"),
    [
        (VllmSettings(model="m"), 1),
        (VllmSettings(model="m", tensor_parallel_size=4), 4),
        (VllmSettings(model="m", tensor_parallel_size=2, extra_engine_args={"pipeline_parallel_size": 2}), 4),
    ],
)
def test_a_worker_needs_all_its_devices_on_one_node(engine: VllmSettings, gpus: int) -> None:
    """Several are a placement group of one bundle, so that Ray shows the replica all of them."""
    ray = RaySettings(gpus_per_device=1, resources={Part.DECODE: {"accelerator_type:H100": 0.001}})
    settings = ClusterSettings(vllm=engine, ray=ray)
    decode = next(each for each in applications(settings) if each.part is Part.DECODE)
    needs = {"CPU": float(gpus), "GPU": float(gpus), "accelerator_type:H100": 0.001}
    assert decode.resources == needs
    deployed = builders.build(settings, decode)._bound_deployment
    options = deployed.ray_actor_options or {}
    assert (options["num_gpus"], options["resources"]) == (gpus, {"accelerator_type:H100": 0.001})
    group = deployed._replica_config.placement_group_bundles
    assert group == ([needs] if gpus > 1 else None)


def test_serve_waits_longer_than_a_worker_drains() -> None:
    """A replica is not killed while somebody may fetch what it handed over, nor judged before it judges."""
    settings = ClusterSettings()
    for each in applications(settings):
        assert each.health_timeout_s > (settings.supervision.liveness_timeout_s or 0.0)
    workers = [each for each in applications(settings) if each.part is not Part.GATEWAY]
    for each in workers:
        assert each.shutdown_timeout_s > each.end_timeout_s > settings.ray.drain_timeout_s


def test_a_worker_is_reached_at_its_node_and_ends_with_its_replica() -> None:
    """Links, questions and KV go to the node's address; nothing is left on loopback."""
    settings = ClusterSettings(engine=EngineKind.SIMULATED, nats=NATS)
    spec = worker_process(settings, Part.PREFILL, place(), model=MODEL)
    own = msgspec.json.decode(spec.settings, type=WorkerProcessSettings)
    assert own.workers[0].worker_id == spec.name == "prefill-abc"
    assert own.workers[0].phases == (Phase.PREFILL,)
    assert own.workers[0].engine.side_channel_host == own.link.host == spec.host == "10.0.0.7"
    assert own.drain_timeout_s == settings.ray.drain_timeout_s
    assert own.parent_pid == 1
    assert own.bus.url == NATS.url


def test_engines_of_one_node_have_cores_of_their_own() -> None:
    """The pools divide the cores as they do without Ray; workers that a planner adds go round."""
    settings = ClusterSettings(pools=PoolSettings(prefill=1, decode=1), nats=NATS)

    def cores(part: Part, rank: int) -> tuple[int, ...]:
        spec = worker_process(settings, part, place(rank=rank, cores=(0, 1, 2, 3)), model=MODEL)
        engine = msgspec.json.decode(spec.settings, type=WorkerProcessSettings).workers[0].engine
        assert isinstance(engine, VllmSettings)
        return engine.cores

    assert [cores(Part.PREFILL, 0), cores(Part.DECODE, 0)] == [(0, 1), (2, 3)]
    assert cores(Part.DECODE, 1) == (0, 1)


@pytest.mark.parametrize(("listens", "asked_at"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "10.0.0.7")])
def test_a_gateway_listens_where_it_is_told_to(listens: str, asked_at: str) -> None:
    """On its own ports, for clients; it is asked where it can be reached."""
    settings = ClusterSettings(edge=EdgeSettings(host=listens), nats=NATS)
    spec = gateway_process(settings, place(), model=MODEL)
    own = msgspec.json.decode(spec.settings, type=GatewayProcessSettings)
    assert (own.edge.host, own.edge.http_port, spec.host) == (listens, 8000, asked_at)
    assert own.models[0].folder == MODEL.folder


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (ClusterSettings(standalone_router=True), "standalone_router"),
        (ClusterSettings(launcher=LauncherSettings()), "launcher"),
        (
            ClusterSettings(
                vllm=VllmSettings(
                    model="m", tensor_parallel_size=2, nodes=NodesSettings(count=2, leader_host="10.0.0.5")
                )
            ),
            "vllm.nodes",
        ),
        (ClusterSettings(gateways=2, edge=EdgeSettings(http_port=0)), "edge.http_port"),
        (ClusterSettings(ray=RaySettings(drain_timeout_s=30.0)), "ray.drain_timeout_s"),
        (
            ClusterSettings(vllm=VllmSettings(model="m", extra_engine_args={"data_parallel_size": "2"})),
            "vllm.extra_engine_args.data_parallel_size",
        ),
    ],
)
def test_what_cannot_be_on_ray_is_named(settings: ClusterSettings, key: str) -> None:
    """Before anything is deployed."""
    with pytest.raises(ConfigurationInvalid) as caught:
        applications(settings)
    assert caught.value.key == key


def test_a_worker_must_need_something_of_a_node() -> None:
    """Else Ray would put all of them on one."""
    with pytest.raises(ConfigurationInvalid, match="cpus_per_device"):
        RaySettings(cpus_per_device=0.0)


def test_serve_reads_the_config_file_and_builds_the_same_applications() -> None:
    """Ray's own schema takes it, and the builders that it names read the same settings from its `args`."""
    values: dict[str, object] = {
        "name": "shop",
        "nats": {"url": NATS.url},
        "pools": {"prefill": 1, "decode": 2, "both": 1},
        "ray": {"gpus_per_device": 1.0},
    }
    settings = parse(ClusterSettings, values, source="test")
    file = ServeDeploySchema.model_validate(serve_config(settings, values))
    planned = applications(settings)
    assert [each.name for each in file.applications] == [each.name for each in planned]
    for written, each in zip(file.applications, planned, strict=True):
        module, _, builder = written.import_path.partition(":")
        assert module == builders.__name__
        built = getattr(builders, builder)(written.args)._bound_deployment
        assert written.external_scaler_enabled is (each.part is not Part.GATEWAY)
        assert written.deployments[0].name == built.name
        assert written.deployments[0].num_replicas == built.num_replicas == each.replica_count
        assert msgspec.json.decode(built.init_args[1], type=ClusterSettings) == settings


def test_a_config_file_needs_a_nats_server() -> None:
    """Nobody would start one."""
    with pytest.raises(ConfigurationInvalid, match=r"nats\.url"):
        serve_config(ClusterSettings(), {})


def test_an_application_with_a_wrong_value_is_refused_by_its_key() -> None:
    """Serve shows the message where it shows why an application did not deploy."""
    with pytest.raises(ConfigurationInvalid, match=r"pools\.decod"):
        builders.prefill({"pools": {"decod": 1}})
    with pytest.raises(ConfigurationInvalid, match=r"pools\.both"):
        builders.both({})
