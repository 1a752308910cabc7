"""What a user may ask of any policy.

Comes in: options of the command. Goes out: pools. Invariant: a split leaves no pool empty.
"""

from collections.abc import Callable
from dataclasses import dataclass

from services.domain.errors import ConfigurationInvalid
from services.replay.policies.at_once import AtOnce, Chooser, Pool
from services.replay.policy import Fleet, Mechanisms


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOptions:
    """Options of a policy."""

    prefill_workers: int | None = None
    """Fixed split: the first so many workers only prefill, the others only decode; None: all do both."""
    mechanisms: Mechanisms | None = None
    """How handoffs work, where the policy does not say so itself."""
    ttft_slo_s: float = 2.0
    """Target of TTFT, for policies that look at it."""
    itl_slo_s: float = 0.025
    """Target of gaps between tokens."""


def pools_of(worker_count: int, prefill_workers: int | None) -> tuple[Pool, Pool | None]:
    """Divide workers into a pool that prefills and one that decodes; one pool and None: all do both.

    Args:
        worker_count: workers, numbered from 0.
        prefill_workers: how many of the first only prefill; None: no division.

    Raises:
        ConfigurationInvalid: the split leaves a pool empty.
    """
    if prefill_workers is None:
        return Pool(range(worker_count), prefills=True, decodes=True), None
    if not 0 < prefill_workers < worker_count:
        raise ConfigurationInvalid(
            key="prefill_workers",
            message=(
                f"prefill workers: {prefill_workers} of {worker_count} leave no worker for one of the phases"
            ),
        )
    return (
        Pool(range(prefill_workers), prefills=True, decodes=False),
        Pool(range(prefill_workers, worker_count), prefills=False, decodes=True),
    )


def on_pools(fleet: Fleet, options: PolicyOptions, chooser: Callable[[Pool], Chooser]) -> AtOnce:
    """Make a policy that places at once, by the same kind of choice on each pool.

    Args:
        fleet: what it sees.
        options: whether there are two pools.
        chooser: makes the choice for a pool.

    Raises:
        ConfigurationInvalid: the split leaves a pool empty.
    """
    first, second = pools_of(fleet.worker_count, options.prefill_workers)
    return AtOnce(
        options.mechanisms or Mechanisms(), chooser(first), None if second is None else chooser(second)
    )
