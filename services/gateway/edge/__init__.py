"""The gateway's edge: HTTP and gRPC, JSON, tokens and text; everything a client sees of Baton.

Comes in: bytes of clients. Goes out: checked, tokenized requests to `Serving`, and its deltas back as
text. Invariant: a request is either refused with the status of the one error table, or answered by a
stream that ends in exactly one terminal event.
Not here: where a request runs (`services.gateway.port` and whoever implements it).
"""
