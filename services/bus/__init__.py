"""The bus: fleet membership, events and the global prefill queue.

`port` is the contract, `memory` a bounded bus inside one process with fault hooks, `nats` the real one
on JetStream (and the only importer of `nats`). Both pass the contract suite in `tests/bus`.
"""
