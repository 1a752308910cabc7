"""A cluster on Ray Serve: one Serve application per part, each replica one process of Baton.

`settings` says what Ray is told, `plan` turns a cluster's settings into applications and processes (pure),
`config_file` writes them as a Serve config file, `applications` are the builders that the file names,
`replica` is what runs in a replica, `session` connects to Ray or starts one, `deployed` brings a cluster up
and takes it down. Tokens never pass Serve: clients talk to a gateway's own port, gateways to workers.
"""
