"""A bus inside one process: bounded, deterministic, with faults that a simulation can switch on.

`MemoryBroker` stands for the server, each `MemoryBus` for one process connected to it.
"""

from services.bus.memory.broker import Delivery, MemoryBroker, deliver_plainly
from services.bus.memory.client import MemoryBus

__all__ = ["Delivery", "MemoryBroker", "MemoryBus", "deliver_plainly"]
