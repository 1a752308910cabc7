"""Placement policies, by name.

Comes in: a name and options. Goes out: what makes that policy for a fleet.
Invariant: a policy is a function of what it saw: no clock, no chance, ties broken by a hash of numbers.
Adding one: write a maker (`PolicyMaker`) in a module of its own and name it in `POLICIES`.
"""

from collections.abc import Callable

from services.domain.errors import ConfigurationInvalid
from services.replay.policies.baton import baton
from services.replay.policies.bounded_hashing import bounded_hashing
from services.replay.policies.chance import by_chance, power_of_two
from services.replay.policies.dynamo_kv import dynamo_kv
from services.replay.policies.least_loaded import least_loaded
from services.replay.policies.llm_d import llm_d
from services.replay.policies.mooncake import mooncake
from services.replay.policies.options import PolicyOptions
from services.replay.policies.round_robin import round_robin
from services.replay.policies.sglang import sglang, sglang_smallest_tree
from services.replay.policy import Fleet, Policy

PolicyMaker = Callable[[Fleet, PolicyOptions], Policy]
"""Makes a policy for a fleet."""

POLICIES: dict[str, PolicyMaker] = {
    "baton": baton,
    "bounded-hashing": bounded_hashing,
    "dynamo-kv": dynamo_kv,
    "least-loaded": least_loaded,
    "llm-d": llm_d,
    "mooncake": mooncake,
    "power-of-two": power_of_two,
    "random": by_chance,
    "round-robin": round_robin,
    "sglang": sglang,
    "sglang-smallest-tree": sglang_smallest_tree,
}
"""All policies."""


def policy_maker(name: str) -> PolicyMaker:
    """Look up a policy.

    Raises:
        ConfigurationInvalid: if there is none of that name.
    """
    try:
        return POLICIES[name]
    except KeyError:
        known = ", ".join(sorted(POLICIES))
        raise ConfigurationInvalid(
            key="policy", message=f"policy: none is named {name!r}; known are {known}"
        ) from None
