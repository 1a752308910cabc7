"""The router: where a prompt is prefilled and who decodes it, decided by predicted seconds.

`placement` and `decode_placement` decide; `filters` and `sifting` say who may be chosen, `prices` and
`ways` at what cost, `refusal` why nobody can. `fleet`, `ledger`, `queue_load` and `index` (with its
answers in `findings`) hold what a decision looks at; `accuracy` notices an index that is wrong. `router`
puts them together. All these are pure. Around them stand the shells: `feed` keeps a router informed from
the bus, `placer` is how it is asked, `shell` serves one on its own and `remote` asks such a one.
"""
