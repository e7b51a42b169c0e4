"""The HTTP API on a Unix socket: who calls, and which part of the controller answers."""
