"""The link: one multiplexed stream between each gateway and each worker.

`port` is the contract, `memory` joins both ends in one process, `grpc_client` and `grpc_server` over the
network. Both pass the contract suite in `tests/link`.
"""
