"""The engine contract: what every engine must do.

A test class inherits `EngineContract` and names its engine kind by a `bench` fixture (`tests.engine.bench`).
"""

from tests.engine.contract.caching import CacheContract
from tests.engine.contract.endings import EndingContract
from tests.engine.contract.handoffs import HandoffContract
from tests.engine.contract.integrity import IntegrityContract
from tests.engine.contract.outputs import OutputContract


class EngineContract(OutputContract, HandoffContract, IntegrityContract, CacheContract, EndingContract):
    """The whole contract."""
