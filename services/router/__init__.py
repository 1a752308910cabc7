"""The router: where a prompt is prefilled and who decodes it, decided by predicted seconds.

`placement` and `decode_placement` decide from three rooms: `fleet` (the workers as they are believed to be),
`prefixes` (who holds which KV blocks) and `pricing` (what each way would cost, and why one is barred);
`roles` and `soft_roles` say how many workers should decode, `learning` what ended requests teach. `router`
puts them together. All these are pure. Around them stand the shells: `feed` keeps a router informed from
the bus, `placer` is how it is asked, `shell` serves one on its own and `remote` asks such a one.
"""
