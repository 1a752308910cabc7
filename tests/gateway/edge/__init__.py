"""The gateway's edge, asked over real sockets."""
