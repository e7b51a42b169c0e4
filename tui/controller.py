"""Connect to the controller, as the command line does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client.client import Client
from broker.config.file import site_socket

if TYPE_CHECKING:
    from pathlib import Path


def open_controller() -> Client:
    """Return a client. In personal mode, the controller is started if it does not run, which may take seconds."""
    socket = site_socket()
    if socket is not None:
        return Client(socket)
    from broker.client.autostart import open_client  # noqa: PLC0415 - the settings take long to import
    from broker.config.settings import load_config  # noqa: PLC0415 - as above

    return open_client(load_config(), _start_is_awaited)


def _start_is_awaited(_socket: Path) -> None:
    """Do nothing: the worker itself tries again until the controller listens."""
