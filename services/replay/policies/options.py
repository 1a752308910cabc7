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


def on_pools(fleet: Fleet, options: PolicyOptions, chooser: Callable[[Pool], Chooser]) -> AtOnce:
    """Make a policy that places at once, by the same kind of choice on each pool.

    Args:
        fleet: what it sees.
        options: whether there are two pools.
        chooser: makes the choice for a pool.

    Raises:
        ConfigurationInvalid: the split leaves a pool empty.
    """
    count, split = fleet.worker_count, options.prefill_workers
    mechanisms = options.mechanisms or Mechanisms()
    if split is None:
        return AtOnce(mechanisms, chooser(Pool(range(count), prefills=True, decodes=True)))
    if not 0 < split < count:
        raise ConfigurationInvalid(
            key="prefill_workers",
            message=f"prefill workers: {split} of {count} leave no worker for one of the phases",
        )
    return AtOnce(
        mechanisms,
        chooser(Pool(range(split), prefills=True, decodes=False)),
        chooser(Pool(range(split, count), prefills=False, decodes=True)),
    )
