"""The exporter's subcommands: look at events, replay a journal, check a directory."""
