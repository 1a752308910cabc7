"""A simulated engine: real scheduling, paged KV and leases; modelled durations; invented tokens.

`engine` is the shell on the event loop's clock, `settings` its settings, `fabric` how engines of one
process find each other, `leases` and `side_channel` how blocks wait for a puller, `scheduler`,
`sequence` and `pool` the pure continuous batching over paged KV, `oracle` the pure function that says
which tokens a request must get.
"""

from services.engine.simulated.engine import SimulatedEngine
from services.engine.simulated.fabric import Fabric
from services.engine.simulated.oracle import Expected, Vocabulary, expected_tokens
from services.engine.simulated.settings import SimulatedSettings

__all__ = ["Expected", "Fabric", "SimulatedEngine", "SimulatedSettings", "Vocabulary", "expected_tokens"]
