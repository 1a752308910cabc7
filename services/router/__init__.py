"""The router: where a prompt is prefilled and who decodes it, decided by predicted seconds.

`placement` and `decode_placement` decide, `filters` and `prices` say who may and at what cost, `fleet`,
`ledger`, `queue_load` and `index` hold what the decision looks at, `accuracy` notices an index that is
wrong; all of these are pure. `router` puts them together. `feed` keeps a router informed from the bus,
`shell` serves one on its own, `remote` asks such a one; these three are the shells.
"""
