"""Commands wait for a controller that systemd starts, and for no other; real sockets, and a stand-in for systemctl."""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import threading
import time
from typing import TYPE_CHECKING

import pytest

from broker.cli.context import Invocation
from broker.client import service_status
from broker.client.service_status import wait_for_start
from broker.errors import ControllerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 20.0


class Systemd:
    """A stand-in for systemctl, which tells the state that a file has, and counts who asks."""

    def __init__(self, directory: Path) -> None:
        self._state, self._asked = directory / "state", directory / "asked"
        program = directory / "systemctl"
        program.write_text(f'#!/bin/sh\necho "$@" >>{self._asked}\ncat {self._state}\n')
        program.chmod(0o755)
        self.set("inactive")

    def set(self, state: str) -> None:
        self._state.write_text(f"{state}\n")

    @property
    def questions(self) -> list[str]:
        return self._asked.read_text().splitlines() if self._asked.exists() else []


class Api(socketserver.UnixStreamServer):
    """A controller that answers every request with an empty list."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"sessions": []}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return ""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), self.Handler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def end(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


@pytest.fixture
def systemd(place: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    monkeypatch.setattr(service_status, "ASK_INTERVAL_S", 0.0)
    return Systemd(place)


@pytest.fixture
def stale(place: Path) -> Path:
    """A socket that a controller has left behind: connections are refused."""
    path = place / "api.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as gone:
        gone.bind(str(path))
    return path


@pytest.fixture
def starting(systemd: Systemd, stale: Path) -> Iterator[list[Api]]:
    """A controller that begins to serve once it was asked twice for the state of the unit."""
    started: list[Api] = []
    systemd.set("activating")

    def start() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(systemd.questions) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        stale.unlink()
        started.append(Api(stale))

    thread = threading.Thread(target=start)
    thread.start()
    yield started
    thread.join()
    for each in started:
        each.end()


@pytest.fixture
def site(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    config = place / "config.yaml"
    config.write_text(f"runtime_dir: {place}\nrestart_wait: 20\n")
    monkeypatch.setenv("BERTH_CONFIG", str(config))
    return config


def test_call_waits_while_the_service_starts(starting: list[Api], site: Path) -> None:
    del site
    assert Invocation().client.sessions() == []
    assert len(starting) == 1


def test_request_that_is_sent_early_waits_too(starting: list[Api], site: Path) -> None:
    del site
    assert json.loads(Invocation().post("/v1/sessions/dev/start", {}).answer()) == {"sessions": []}
    assert len(starting) == 1


@pytest.mark.parametrize("state", ["inactive", "failed", "active", ""])
def test_service_that_nothing_starts_is_not_waited_for(systemd: Systemd, stale: Path, site: Path, state: str) -> None:
    del site, stale
    systemd.set(state)
    with pytest.raises(ControllerUnavailableError):
        Invocation().client.sessions()
    assert systemd.questions == ["show --property=ActiveState --value berth.service"]


def test_machine_without_systemd_is_not_waited_for(place: Path, stale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    wait_for_start(stale, 3600, tell=pytest.fail)


@pytest.mark.parametrize("missing", [True, False])
def test_wait_ends_when_the_service_stops_for_good(systemd: Systemd, stale: Path, missing: bool) -> None:
    if missing:
        stale.unlink()
    systemd.set("deactivating")
    waiting = threading.Thread(target=wait_for_start, args=(stale, 3600, lambda _: None))
    waiting.start()
    deadline = time.monotonic() + PATIENCE_S
    while not systemd.questions and time.monotonic() < deadline:
        time.sleep(0.01)
    systemd.set("inactive")
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()


def test_wait_is_bounded_and_explained(systemd: Systemd, stale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd.set("activating")
    monkeypatch.setattr(service_status, "QUIET_S", 0.0)
    told: list[str] = []
    wait_for_start(stale, 0.3, told.append)
    assert told == ["waiting for the controller, which is being started (at most 0.3 s)"]


def test_socket_with_a_full_queue_is_a_controller(systemd: Systemd, place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(place / "api.sock"))
        listener.listen(8)
        wait_for_start(place / "api.sock", 3600, tell=pytest.fail)
    assert systemd.questions == []
