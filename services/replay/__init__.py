"""The fast simulated cluster: replays a trace of requests on a virtual clock, under any placement policy.

`traces` and `trace_files` say what was asked, `workloads` invents it, `retiming` changes when, `presets` says
how fast engines are. `cache`, `batch` and `worker` are one engine, `cluster` is many with links between them,
`policy` is what decides, `policies` are those that exist. `measures` turns what happened into numbers, `run`
puts everything together. The same inputs give the same run.
"""
