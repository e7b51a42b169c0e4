"""Published ports of a session, with its real first process and sshd: how they come, what reaches them, how they go."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import pytest

from broker.client.published_port import published_service
from broker.service_catalogue import SOCKETS, parse_catalogue, remote_command
from profiles.recipe.service import Service
from tests.fakes.openssh import free_port
from tests.fakes.port_server import LAST_WORDS, OTHER_UID, port_server
from tests.fakes.session_container import OWNER, SERVE, WEB_LOGIN, SessionContainer
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.service_catalogue import ListedService

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionContainer]:
    made = SessionContainer(tmp_path_factory.mktemp("session"))
    made.prepare(Service(name="page", command=SERVE, socket="page.sock"))
    with made.running():
        yield made


@pytest.fixture
def key(session: SessionContainer) -> Path:
    """A key of berth-web with a certificate for this session."""
    return session.certificate(f"web:{session.id}")


@pytest.fixture
def port(session: SessionContainer) -> Iterator[int]:
    """A free port, which the session publishes no longer after the test."""
    chosen = free_port()
    yield chosen
    run(session, "withdraw", f"port-{chosen}")


def run(session: SessionContainer, *words: str, stdin: str = "") -> str:
    """Run the program of the session as its owner."""
    done = session.run(session.base / "owner", remote_command(*words), login=OWNER, stdin=stdin)
    return done.stdout


def publish(session: SessionContainer, port: int, title: str = "") -> None:
    listed = published_service(port, title)
    assert "state " in run(session, "publish", listed.service.name, stdin=listed.request)
    wait_for(lambda: listing(session)[listed.service.name].state == "ready", what="the relay")


def listing(session: SessionContainer) -> dict[str, ListedService]:
    return parse_catalogue(run(session, "list").encode()).services


def ask(session: SessionContainer, key: Path, port: int, login: str = WEB_LOGIN) -> str:
    """Send a request through a forward to the port's socket; return all that comes back."""
    with session.connected(key, f"{SOCKETS}/port-{port}.sock", login) as connection:
        connection.sendall(REQUEST)
        return read_all(connection).decode()


def read_all(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(4096):
            data += piece
    return data


def test_published_port_is_a_service_for_owner_and_berth_web(session: SessionContainer, key: Path, port: int) -> None:
    publish(session, port, "My page")
    found = listing(session)[f"port-{port}"]
    assert (found.title, found.own, found.published) == ("My page", True, True)
    with port_server(session.base / "got", port=port):
        answer = f"served by {os.getuid()}\n"  # the owner's uid in the session, as the test's outside
        assert ask(session, key, port).endswith(answer)
        assert ask(session, session.base / "owner", port, OWNER).endswith(answer)
    started = session.run(key, "start", f"port-{port}")
    assert started.stdout.splitlines() == [f"socket port-{port}.sock", "state ready"]


def test_port_that_is_published_again_gets_the_title_and_keeps_its_relay(session: SessionContainer, port: int) -> None:
    publish(session, port)
    pid = (session.node / f"services/port-{port}/pid").read_text()
    publish(session, port, "Other")
    assert (session.node / f"services/port-{port}/pid").read_text() == pid
    assert listing(session)[f"port-{port}"].title == "Other"


def test_stream_in_both_directions_passes_the_tunnel(session: SessionContainer, key: Path, port: int) -> None:
    publish(session, port)
    with (
        port_server(session.base / "got", "::1", port),
        session.connected(key, f"{SOCKETS}/port-{port}.sock") as connection,
    ):
        for message in (b"first", b"second"):
            connection.sendall(message)
            assert connection.recv(100) == message
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == LAST_WORDS


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a server as another user")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_another_users_server_gets_no_byte(session: SessionContainer, key: Path, port: int, host: str) -> None:
    publish(session, port)
    with port_server(session.base / "mine", host, port):
        assert "served by" in ask(session, key, port)
    with port_server(session.base / "theirs", host, port, OTHER_UID) as theirs:
        answer = ask(session, key, port)
        assert answer.startswith("HTTP/1.1 502 ")
        assert "belongs to another user of the node. Nothing was sent to it." in answer
        assert theirs.connections
        assert theirs.got.read_bytes() == b""


def test_withdrawn_port_is_closed_to_all(session: SessionContainer, key: Path, port: int) -> None:
    publish(session, port)
    with (
        port_server(session.base / "got", port=port),
        session.connected(key, f"{SOCKETS}/port-{port}.sock") as open_one,
    ):
        open_one.sendall(b"open")
        assert open_one.recv(100) == b"open"
        assert run(session, "withdraw", f"port-{port}") == "withdrawn\n"
        assert read_all(open_one) == b""
        assert session.ask(key, f"{SOCKETS}/port-{port}.sock") == ""
    assert f"port-{port}" not in listing(session)
    assert (
        session.run(key, "start", f"port-{port}").stdout == f"refused there is no service port-{port} in this session\n"
    )
    assert run(session, "withdraw", f"port-{port}") == f"refused the port {port} is not published\n"
    publish(session, port)


def test_ports_and_names_are_limited(session: SessionContainer) -> None:
    for name in ("web", "port-", "port-0", "port-123456", "port-8a"):
        assert run(session, "publish", name, stdin="\n") == f"refused {name} is not the name of a port\n"
    places = [session.node / f"services/port-{number}" for number in range(1, 25)]
    for place in places:
        place.mkdir()
        (place / "own").touch()
    assert run(session, "publish", "port-8000", stdin="\n") == "refused it has 24 published ports already\n"
    for place in places:
        (place / "own").unlink()


def test_image_without_python_is_refused(session: SessionContainer) -> None:
    (session.base / "home/.bash_profile").write_text("PATH=/nowhere\n")
    try:
        said = run(session, "publish", "port-8000", stdin="\n")
    finally:
        (session.base / "home/.bash_profile").unlink()
    assert said == "refused the image has no python3 (3.8 or later), which relays the connections\n"
