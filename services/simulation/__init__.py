"""The whole cluster on a virtual clock, with faults drawn from a seed, judged by invariants.

`scenario` says what happens (drawn by `draw` from a seed), `world` makes it happen to the real shells of
`services.cluster.inprocess`, `observation` is what was seen, `invariants` judges it, `run` puts the four
together for one scenario, `campaign` for many seeds, `shrink` makes a failure small, `story` tells it.
"""
