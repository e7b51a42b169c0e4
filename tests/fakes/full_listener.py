"""A port that accepts no connection and refuses none, as a node that drops packets."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """Yield a port of 127.0.0.1 whose queue of connections (listen(2)) is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        with contextlib.suppress(TimeoutError):
            while True:
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=0.5))
        yield port
