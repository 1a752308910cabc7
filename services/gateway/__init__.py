"""The gateway: the edge that clients talk to, and the conductor that owns each request's life.

`port` is what the edge asks of the conductor; `edge` speaks HTTP and gRPC; `conductor` places, queues,
hands over and streams.
"""
