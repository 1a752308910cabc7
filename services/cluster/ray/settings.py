"""What Ray is told of a cluster: where it is, what each replica needs of it, how replicas end.

Comes in: the `ray` section of a cluster's settings. Goes out: a frozen struct. Invariant: a value that no Ray
cluster could satisfy refuses the start and names the key. Not here: how many replicas there are (`pools`,
`gateways`), what they run.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from services.domain.errors import ConfigurationInvalid
from services.link.settings import LinkTls

_Amount = Annotated[float, msgspec.Meta(ge=0)]


class Part(StrEnum):
    """What a replica runs; each is a Serve application of its own."""

    GATEWAY = "gateway"
    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


class RaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ray Serve, for `baton up --on ray` and the Serve config file."""

    address: str | None = None
    """An existing cluster, as `ray.init` takes it: "auto", host:port of its head, or ray://host:port. None
    takes the environment variable RAY_ADDRESS, and without it starts a cluster on this machine."""

    gpus_per_device: _Amount = 0.0
    """GPUs of each of an engine's devices; 1 on GPUs. A worker gets as many as its engine has devices
    (`vllm.tensor_parallel_size` times the parallel sizes in `vllm.extra_engine_args`), all on one machine.
    Default: engines that compute on the CPU."""

    cpus_per_device: _Amount = 1.0
    """CPUs that Ray sets aside for each device. Ray only counts them; it binds nothing to cores."""

    gateway_cpus: _Amount = 1.0
    """CPUs that Ray sets aside for each gateway: it is one busy event loop."""

    resources: dict[Part, dict[str, _Amount]] = {}
    """What replicas of a part need besides, by the names of Ray's resources, such as
    `prefill: {"accelerator_type:H100": 0.001}` for one kind of GPU, or a resource of your own with which
    `ray start --resources` marked nodes."""

    drain_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """Longest time that a worker which is to go takes for what it runs; seconds. Above the KV lease."""

    tls: LinkTls | None = None
    """Encryption between gateways and workers, with files that every node has; none sends in the clear."""

    local_cpus: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """CPUs that a cluster started on this machine claims to have: the bound on what a planner may start.
    None takes those of the machine, or as many as the first replicas need when that is more."""

    local_dashboard_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8265
    """Port of the dashboard, and so of Serve's REST API, of a cluster started on this machine; 0 takes a free
    one."""

    local_folder: str | None = None
    """Where a cluster started on this machine keeps sockets and logs: a short path. None leaves it to Ray,
    which takes `ray` in the system's temporary folder."""

    def __post_init__(self) -> None:
        """Refuse a worker that needs nothing of any node.

        Raises:
            ConfigurationInvalid: names the key.
        """
        if self.gpus_per_device == 0 and self.cpus_per_device == 0:
            raise ConfigurationInvalid(
                key="ray.cpus_per_device",
                message="ray.cpus_per_device and ray.gpus_per_device: one must be above 0, or Ray puts every "
                "worker on one node",
            )
