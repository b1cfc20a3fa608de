"""The command line: one function a subcommand; `arguments` says what each takes."""
