"""WebSockets at the lab's login node, which tell when they were closed."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.deadlines import DEADLINE_S
from tests.lab.web_browser import ACCOUNT, GRANT
from tests.processes import process_children
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab_cluster import Lab

CLIENT = "/opt/berth/src/tests/lab/web_socket.py"


class WebSocket:
    """One that the server may have refused; `status` says so."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._lines = process.stdout
        self.status = int(self._lines.readline())

    @property
    def is_open(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._lines, selectors.EVENT_READ)
            return self.status == 101 and not selector.select(0)

    def closed_at(self) -> float:
        """Return the time at which it was closed, in seconds since the epoch; it must be within the deadline."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._lines, selectors.EVENT_READ)
            assert selector.select(DEADLINE_S), "the WebSocket is still open"
        return float(self._lines.readline())


@contextlib.contextmanager
def web_socket(lab: Lab, url: str, grant: str) -> Iterator[WebSocket]:
    """A WebSocket of the service's own page, with this cookie."""
    words = [str(deploy.WEB_PORT), urlsplit(url).netloc, url, f"{GRANT}={grant}"]
    argv = lab.argv(["python3", CLIENT, "hold", *words], user=ACCOUNT)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        try:
            yield WebSocket(process)
        finally:
            for each in process_children(process.pid):  # nsenter's child
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
