"""Engines behind one port: what computes prefill and decode steps and holds KV blocks.

`port` is the contract, `simulated` an engine on a clock, `vllm` the real one (and the only importer of
`vllm`). Both pass the contract suite in `tests/engine`.
"""
