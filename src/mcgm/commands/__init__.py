"""The subcommands of `mcgm`, one module each."""
