"""The launcher: the process that runs as root. It becomes a user and then acts as that user only."""
