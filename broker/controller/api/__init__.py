"""The HTTP API on a Unix socket: identify the caller, and call the part of the controller that answers."""
