"""A whole cluster on this machine: NATS, gateway and workers as processes that end together.

`settings` says what is wanted, `plan` turns it into processes (pure), `processes` runs them, `local`
brings them up with progress and takes them down. `ray` does it on Ray Serve.
"""
