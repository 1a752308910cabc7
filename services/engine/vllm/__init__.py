"""The vLLM engine: real models on CPU or GPU, KV handed over by NIXL.

Comes in: jobs of the engine port. Goes out: steps and KV events of the engine port.
Invariant: the only importer of `vllm`, `nixl`, `torch` and `zmq`; importing this package or its `adapter`
imports none of them, so that a process without an engine never pays for them.
Written against vLLM 0.32 and nixl 1.5. Not here: anything that other rooms could share.
"""
