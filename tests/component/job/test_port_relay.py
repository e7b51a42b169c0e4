"""The relay of a published port: with real servers of the owner and of another user, and without a session."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.job import port_relay
from tests.deadlines import DEADLINE_S
from tests.fakes.openssh import free_port
from tests.fakes.port_server import LAST_WORDS, OTHER_UID, port_server
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a server as another user")
REQUEST = b"GET /secret HTTP/1.1\r\nHost: test\r\nCookie: mine\r\n\r\n"
HOSTS = ("127.0.0.1", "::1")


@contextlib.contextmanager
def relay(place: Path, port: int, **constants: str) -> Iterator[Path]:
    """Run the relay of a port, with other values of some constants; gives its socket."""
    text = Path(port_relay.__file__).read_text()
    for name, value in constants.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert count == 1
    (place / "port_relay.py").write_text(text)
    path = place / "relay.sock"
    process = subprocess.Popen([sys.executable, "-I", place / "port_relay.py", path, str(port)])
    try:
        wait_for(lambda: _listens(path), what="the relay's socket")
        yield path
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def _listens(path: Path) -> bool:
    rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()]
    return any(row[3] == "00010000" and row[-1] == str(path) for row in rows)  # __SO_ACCEPTCON of Linux


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(path))
        yield client


def _send_all(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def read_all(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def ask(path: Path) -> str:
    with connected(path) as client:
        client.sendall(REQUEST)
        return read_all(client).decode()


class TestOwnServer:
    @contextlib.contextmanager
    def _accepted(self, place: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Give both ends of a connection through the relay."""
        with (
            socket.create_server((HOSTS[0], 0)) as listener,
            relay(place, listener.getsockname()[1]) as path,
            connected(path) as client,
        ):
            listener.settimeout(DEADLINE_S)
            accepted, _ = listener.accept()
            with accepted:
                yield client, accepted

    @pytest.mark.parametrize("host", [*HOSTS, "::"])
    def test_request_reaches_the_owners_server(self, tmp_path: Path, host: str) -> None:
        with port_server(tmp_path / "got", host) as server, relay(tmp_path, server.port) as path:
            assert ask(path).endswith(f"served by {os.getuid()}\n")
            assert server.got.read_bytes() == REQUEST

    def test_both_directions_end_on_their_own(self, tmp_path: Path) -> None:
        with port_server(tmp_path / "got") as server, relay(tmp_path, server.port) as path, connected(path) as client:
            for message in (b"first", b"second"):
                client.sendall(message)
                assert client.recv(100) == message
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == LAST_WORDS

    def test_much_data_arrives_unchanged(self, tmp_path: Path) -> None:
        data = os.urandom(1 << 20) * 8
        with port_server(tmp_path / "got") as server, relay(tmp_path, server.port) as path, connected(path) as client:
            sender = threading.Thread(target=_send_all, args=[client, data])
            sender.start()
            assert read_all(client) == data + LAST_WORDS
            sender.join()

    def test_server_that_takes_nothing_stops_the_client(self, tmp_path: Path) -> None:
        with self._accepted(tmp_path) as (client, _):
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.sendall(bytes(64 << 20))

    def test_reset_by_the_server_ends_the_client(self, tmp_path: Path) -> None:
        with self._accepted(tmp_path) as (client, accepted):
            client.sendall(b"unread")
            assert accepted.recv(1, socket.MSG_PEEK) == b"u"
            accepted.close()  # with unread data: a reset
            assert client.recv(1) == b""

    def test_page_says_that_nothing_listens(self, tmp_path: Path) -> None:
        port = free_port()
        with relay(tmp_path, port) as path:
            answer = ask(path)
        assert answer.startswith("HTTP/1.1 502 ")
        assert f"\r\n\r\nNothing listens on localhost:{port} in the session." in answer

    def test_server_that_does_not_accept_gets_nothing(self, tmp_path: Path) -> None:
        with socket.create_server((HOSTS[0], 0)) as listener:
            with relay(tmp_path, listener.getsockname()[1], ACCEPT_LIMIT_S="0.3") as path:
                assert "has not accepted the connection" in ask(path)
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(1) == b""

    def test_connections_are_limited(self, tmp_path: Path) -> None:
        with port_server(tmp_path / "got") as server, relay(tmp_path, server.port, MAX_CONNECTIONS="1") as path:
            with connected(path) as first:
                first.sendall(b"first")
                assert first.recv(100) == b"first"
                assert "1 connections to" in ask(path)
                first.shutdown(socket.SHUT_WR)
                read_all(first)
            wait_for(lambda: "served by" in ask(path), what="room for another connection")

    def test_client_that_sends_no_request_gets_the_page(self, tmp_path: Path) -> None:
        with relay(tmp_path, free_port(), PAGE_LIMIT_S="0.2") as path, connected(path) as client:
            assert b"Nothing listens" in read_all(client)


def test_program_has_the_syntax_of_its_oldest_python() -> None:
    ast.parse(Path(port_relay.__file__).read_text(), feature_version=(3, 8))


def test_connection_to_itself_is_none() -> None:
    with socket.socket() as both:
        both.bind((HOSTS[0], 0))
        both.connect(both.getsockname())
        step = port_relay._far_user(both)
        with pytest.raises(ConnectionRefusedError):
            step.send(None)


@ONLY_ROOT
class TestOtherUser:
    @pytest.mark.parametrize("host", [*HOSTS, "::"])
    def test_server_of_another_user_gets_no_byte(self, tmp_path: Path, host: str) -> None:
        with port_server(tmp_path / "got", host, uid=OTHER_UID) as server, relay(tmp_path, server.port) as path:
            answer = ask(path)
            assert answer.startswith("HTTP/1.1 502 ")
            assert "belongs to another user of the node. Nothing was sent to it." in answer
            assert server.connections
            assert server.got.read_bytes() == b""

    @pytest.mark.parametrize("own", HOSTS)
    def test_owners_server_is_found_beside_another_users(self, tmp_path: Path, own: str) -> None:
        other = HOSTS[own == HOSTS[0]]
        with (
            port_server(tmp_path / "mine", own) as mine,
            port_server(tmp_path / "theirs", other, mine.port, OTHER_UID) as theirs,
            relay(tmp_path, mine.port) as path,
        ):
            assert ask(path).endswith(f"served by {os.getuid()}\n")
            assert theirs.got.read_bytes() == b""

    @pytest.mark.parametrize("host", HOSTS)
    def test_port_that_another_user_takes_over_is_refused(self, tmp_path: Path, host: str) -> None:
        port = free_port()
        with relay(tmp_path, port) as path, contextlib.ExitStack() as open_before:
            with port_server(tmp_path / "mine", host, port):
                before = open_before.enter_context(connected(path))
                before.sendall(b"open")
                assert before.recv(100) == b"open"
                assert "served by" in ask(path)
            with port_server(tmp_path / "theirs", host, port, OTHER_UID) as theirs:
                assert before.recv(1) == b""
                with contextlib.suppress(BrokenPipeError):
                    before.sendall(REQUEST)
                assert "belongs to another user of the node" in ask(path)
                assert theirs.connections
                assert theirs.got.read_bytes() == b""
