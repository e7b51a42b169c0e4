"""The `berth` command. `main` is the entry point; app.py has the table of commands."""

from broker.cli.app import main

__all__ = ["main"]
