"""The `baton` command itself, run as a process of its own."""
