"""Settings of a vLLM engine: what is refused, and what the environment becomes."""

import subprocess
import sys

import pytest

from services.domain.errors import ConfigurationInvalid
from services.domain.ids import TicketId
from services.engine.vllm.environment import default_environment, forced_environment
from services.engine.vllm.leases import KeptLease, LeaseBook
from services.engine.vllm.settings import NodesSettings, VllmSettings
from services.runtime.settings import parse


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model": ""}, "model"),
        ({"model": "m", "cores": [1, 1]}, "cores"),
        ({"model": "m", "step_tokens_max": 8}, "step_tokens_max"),
        ({"model": "m", "performance": "quantum"}, "performance"),
        ({"model": "m", "lease_s": 1}, "lease_s"),
        ({"model": "m", "side_channel_host": "somewhere"}, "side_channel_host"),
        ({"model": "m", "adapters": {"": "x"}}, "adapters"),
        ({"model": "m", "dtype": "int3"}, "dtype"),
        ({"model": "m", "colour": "red"}, "colour"),
        ({"model": "m", "nodes": {"count": 2, "rank": 2, "leader_host": "a"}}, "nodes.rank"),
        (
            {"model": "m", "nodes": {"count": 2, "leader_host": "a"}, "side_channel_host": "0.0.0.0"},
            "side_channel_host",
        ),
    ],
)
def test_impossible_settings_name_their_key(values: dict[str, object], key: str) -> None:
    """A wrong value refuses the start and says where it stands."""
    with pytest.raises(ConfigurationInvalid) as refusal:
        parse(VllmSettings, values, source="test")
    assert refusal.value.key == key


def test_who_does_not_lead_follows() -> None:
    """Rank 0 leads; followers fetch what is to be computed at the address that they know of a machine."""
    first, second = (NodesSettings(count=2, rank=rank, leader_host="a") for rank in (0, 1))
    assert not VllmSettings(model="m").follows
    assert not VllmSettings(model="m", nodes=first).follows
    follower = VllmSettings(model="m", nodes=second, side_channel_host="10.0.0.7")
    assert follower.follows
    assert default_environment(follower)["VLLM_HOST_IP"] == "10.0.0.7"


def test_environment_keeps_engines_apart() -> None:
    """Threads follow the pinned cores, transports follow the settings, vLLM's own binding is off."""
    settings = VllmSettings(model="/nowhere", cores=(3, 5))
    forced = forced_environment(settings)
    assert forced["OMP_NUM_THREADS"] == "2"
    assert forced["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "HF_HUB_OFFLINE" not in forced
    assert default_environment(settings)["UCX_TLS"] == "tcp,self"
    assert default_environment(settings)["UCX_NET_DEVICES"] == "lo"
    assert "UCX_NET_DEVICES" not in default_environment(VllmSettings(model="m", side_channel_host="10.0.0.7"))
    assert "UCX_TLS" not in default_environment(VllmSettings(model="m", ucx_transports=""))
    assert "OMP_NUM_THREADS" not in forced_environment(VllmSettings(model="m"))


def test_adapter_is_imported_without_vllm() -> None:
    """A process that only knows the engine's name does not pay for vLLM, torch, NIXL or ZMQ."""
    check = (
        "import sys; import services.engine.vllm.adapter; "
        "sys.exit(' '.join({'vllm', 'torch', 'nixl', 'zmq'} & set(sys.modules)) or None)"
    )
    command = [sys.executable, "-c", check]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_leases_leave_the_book_once() -> None:
    """A lease ends by its holder, or when the engine holds it no more, and one opened since is spared."""
    book = LeaseBook()
    for name in ("a", "b", "c"):
        book.open(TicketId(name), KeptLease(engine_request_id=f"engine-{name}", block_count=2))
    seen = book.tickets()
    book.open(TicketId("d"), KeptLease(engine_request_id="engine-d", block_count=5))
    assert book.end(TicketId("a")) == KeptLease(engine_request_id="engine-a", block_count=2)
    assert book.end(TicketId("a")) is None
    book.keep_only({"engine-b"}, among=seen)
    assert book.block_count == 2 + 5
    assert len(book.end_all()) == 2
    assert len(book) == 0
