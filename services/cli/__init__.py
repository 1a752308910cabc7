"""The `baton` command: one module per subcommand, words and tables only; work is done in the rooms below."""
