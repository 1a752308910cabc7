"""Two workloads on a server in memory, and a planner's target that scales them."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from planner.decision import Decision, PoolOrder
from planner.targets.kubernetes.settings import KubernetesSettings, LeaseSettings, WorkloadSettings
from planner.targets.kubernetes.target import Kubernetes
from services.domain.worker import Phase
from services.runtime.clock import LoopClock
from tests.planner.kubernetes.api_state import ApiState
from tests.planner.kubernetes.wire import Wire

PREFILL = "apis/apps/v1/namespaces/llm/deployments/baton-prefill"
DECODE = "apis/leaderworkerset.x-k8s.io/v1/namespaces/llm/leaderworkersets/baton-decode"
LEASE = "apis/coordination.k8s.io/v1/namespaces/llm/leases/baton-planner"

Story = Callable[[ApiState, Wire, Kubernetes], Awaitable[None]]


def orders(prefill: int, decode: int) -> Decision:
    """A decision for both pools."""
    return Decision(
        orders=(
            PoolOrder(phase=Phase.PREFILL, kind="default", worker_count=prefill),
            PoolOrder(phase=Phase.DECODE, kind="default", worker_count=decode),
        ),
        look_s=10.0,
    )


def state() -> ApiState:
    """Two prefill and three decode workers, and a lease that nobody holds."""
    made = ApiState()
    made.workload(PREFILL, 2)
    made.workload(DECODE, 3)
    made.lease(LEASE)
    return made


def settings(*, lease: LeaseSettings | None = None, token_file: Path | None = None) -> KubernetesSettings:
    """Settings for both workloads."""
    return KubernetesSettings(
        namespace="llm",
        workloads=(
            WorkloadSettings(phase=Phase.PREFILL, name="baton-prefill"),
            WorkloadSettings(phase=Phase.DECODE, name="baton-decode", resource="leaderworkerset"),
        ),
        token_file=str(token_file or "/nowhere/token"),
        ca_file="/nowhere/ca.crt",
        tries_max=3,
        lease=lease,
    )


def target(wire: Wire, chosen: KubernetesSettings | None = None) -> Kubernetes:
    """A target whose requests go over a wire."""
    return Kubernetes(chosen or settings(), now_s=LoopClock().now_s, client=wire.client())


async def played(story: Story, chosen: KubernetesSettings | None = None) -> None:
    """Play a story; meant for a virtual clock."""
    api = state()
    wire = Wire(api)
    one = target(wire, chosen)
    try:
        await story(api, wire, one)
    finally:
        await one.close()
