"""Asking the controller in HTTP's simplest form, against servers that answer well, badly and not at all."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.client import http
from broker.errors import BerthError, ControllerUnavailableError, NotFoundError, RefusedError
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def answering(*parts: bytes, then: Iterable[bytes] = ()) -> Iterator[tuple[Path, list[bytes]]]:
    """A socket whose server takes one request, answers with these parts and closes; and what it was sent."""
    directory = Path(tempfile.mkdtemp(prefix="berth-"))  # short: a socket's path has at most 107 bytes
    heard: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            heard.append(connection.recv(65536))
            for part in itertools.chain(parts, then):
                connection.sendall(part)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "api.sock"))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield directory / "api.sock", heard
        thread.join()
    shutil.rmtree(directory)


def test_the_request_and_a_good_answer() -> None:
    with answering(b"HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\n{", b'"a": "b"}') as (place, heard):
        assert http.send_request(place, "POST", "/v1/x", "{}").answer() == b'{"a": "b"}'
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"POST /v1/x HTTP/1.0"
    assert b"Content-Length: 2" in head
    assert body == b"{}"


def test_a_refusal_is_rebuilt() -> None:
    body = b'{"reason": "not-found", "message": "no such thing", "hint": "look"}'
    with answering(b"HTTP/1.0 404 Not Found\r\n\r\n" + body) as (place, _), pytest.raises(NotFoundError) as caught:
        http.send_request(place, "GET", "/").answer()
    assert (caught.value.message, caught.value.hint) == ("no such thing", "look")


@pytest.mark.parametrize("body", [b"Internal Server Error", b"{}", b"[]"])
def test_a_refusal_in_other_words(body: bytes) -> None:
    refused = pytest.raises(BerthError, match="responded with status 500")
    with answering(b"HTTP/1.0 500 Oops\r\n\r\n" + body) as (place, _), refused:
        http.send_request(place, "GET", "/").answer()


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_no_answer(answer: bytes) -> None:
    with answering(answer) as (place, _), pytest.raises(ControllerUnavailableError, match="does not answer"):
        http.send_request(place, "GET", "/").answer()


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(ControllerUnavailableError, match="does not answer"):
        http.send_request(tmp_path / "api.sock", "GET", "/")


def test_what_start_loads_before_it_asks() -> None:
    """The controller is asked first, and what reads its answer is loaded while it works."""
    code = "import sys, broker.client.http, broker.config.file, broker.cli.commands.start; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=DEADLINE_S)
    assert not {"pydantic", "http.client", "asyncio", "broker.schema", "broker.config.settings"} & set(
        done.stdout.split()
    )


def test_settings_load_no_cryptography() -> None:
    """Commands in personal mode and for administrators read all settings, and seldom a key: ssh's code is slow."""
    code = "import sys, broker.config.settings; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=DEADLINE_S)
    assert not {"asyncssh", "cryptography"} & set(done.stdout.split())


def test_a_full_queue_of_the_controller_is_waited_for() -> None:
    with answering(b"HTTP/1.0 200 OK\r\n\r\nfine") as (place, _):
        real = socket.socket.connect
        tries: list[str] = []

        def connect(self: socket.socket, path: str) -> None:
            """Fail as the kernel does for a socket with a timeout while the backlog is full."""
            tries.append(path)
            if len(tries) < 4:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            real(self, path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket.socket, "connect", connect)
            assert http.send_request(place, "GET", "/").answer() == b"fine"
    assert len(tries) == 4


def test_refusal_is_read_although_nothing_can_be_sent() -> None:
    body = b'{"reason": "refused", "message": "no account", "hint": ""}'
    directory = Path(tempfile.mkdtemp(prefix="berth-"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "api.sock"))
        listener.listen()

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.send(b"HTTP/1.1 403 Refused\r\n\r\n" + body)

        real = http._connect

        def connect_and_wait(connection: socket.socket, path: str) -> None:
            thread = threading.Thread(target=refuse)
            thread.start()
            real(connection, path)
            thread.join()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http, "_connect", connect_and_wait)
            asked = http.send_request(directory / "api.sock", "GET", "/")
        with pytest.raises(RefusedError, match="no account"):
            asked.answer()
    shutil.rmtree(directory)
