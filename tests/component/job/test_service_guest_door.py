"""The door of a session for berth-web when a guest visits, with real sshd: one service opens, and nothing else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from broker.ssh.certificates import guest_principals
from profiles.recipe.service import Service, format_services
from tests.component.job.test_web_door import OTHER_SESSION, SOCKETS, opened
from tests.fakes.openssh import free_port
from tests.fakes.session_container import OWNER, SERVE, SessionContainer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOARD = Service(name="board", command=SERVE, socket="board.sock")
SHELL = Service(name="terminal", command=SERVE, socket="shell.sock", shell=True)  # noqa: S604 - no subprocess
ADDED = Service(name="added", command=SERVE, socket="own.sock")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionContainer]:
    made = SessionContainer(tmp_path_factory.mktemp("session"))
    made.prepare(BOARD, SHELL)
    with made.running():
        yield made


def guest_of(session: SessionContainer, service: str) -> Path:
    """A key with the certificate of a guest of this service."""
    return session.certificate(",".join(guest_principals(session.id, service)))


def answers(session: SessionContainer, key: Path, target: str) -> bool:
    """Whether anything comes back; also for a login without any forwarding, which sshd's log does not name."""
    with session.connected(key, target) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")
        return connection.recv(1) != b""
    return False


def test_guest_starts_and_reaches_the_one_service(session: SessionContainer) -> None:
    key, owner = guest_of(session, "board"), session.certificate(f"web:{session.id}")
    with opened(session, key, "start", "board") as report:
        assert report[0] == "socket board.sock"
        assert "reconnect" not in report
        assert session.ask(key, f"{SOCKETS}/board.sock").startswith("HTTP/1.1 200 ")
    with opened(session, owner, "start", "terminal"):
        assert session.ask(owner, f"{SOCKETS}/shell.sock").startswith("HTTP/1.1 200 ")
        assert session.ask(owner, f"{SOCKETS}/board.sock").startswith("HTTP/1.1 200 ")
        assert session.ask(key, f"{SOCKETS}/shell.sock") == ""


@pytest.mark.parametrize(
    "command", ["start terminal", "start none", "id", "", "start board; id", "admit-guest", "list"]
)
def test_guest_runs_nothing_else(session: SessionContainer, command: str) -> None:
    done = session.run(guest_of(session, "board"), *([command] if command else []), stdin="id\n")
    assert done.returncode == 1
    assert done.stdout in {
        "refused this connection can only run: start board\n",
        "refused berth-web can only run: start NAME\n",
    }


@pytest.mark.parametrize("target", ["own.sock", "../node/web_principals", "none.sock"])
def test_guest_reaches_no_other_socket_and_no_port(session: SessionContainer, target: str) -> None:
    key = guest_of(session, "board")
    assert session.ask(key, f"{SOCKETS}/{target}") == ""
    assert session.ask(key, f"127.0.0.1:{session.port}") == ""
    options = ["-N", "-R", f"127.0.0.1:{free_port()}:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes"]
    assert session.run(key, options=options).returncode == 255


def test_service_that_its_owner_has_added_is_reached_by_a_second_connection(session: SessionContainer) -> None:
    """The first one reaches no socket at all: it only lets the session look at the definitions again."""
    key = guest_of(session, "added")
    assert session.run(key, "start", "added").stdout == "refused there is no service added in this session\n"
    (session.files / "own_services").write_text(format_services([ADDED]))
    for name in ("board.sock", "shell.sock", "own.sock"):
        assert not answers(session, key, f"{SOCKETS}/{name}")
    assert session.run(key, "start", "added").stdout == "socket own.sock\nreconnect\n"
    with opened(session, key, "start", "added") as report:
        assert report[0] == "socket own.sock"
        assert "reconnect" not in report
        assert session.ask(key, f"{SOCKETS}/own.sock").startswith("HTTP/1.1 200 ")
        assert session.ask(key, f"{SOCKETS}/board.sock") == ""
    assert not session.lets_in(guest_of(session, "board"), login=OWNER)


def test_certificate_of_another_session_or_service_opens_nothing(session: SessionContainer) -> None:
    for principals in (f"web:{OTHER_SESSION}:board", f"web-admit:{OTHER_SESSION}", f"web:{session.id}:", "web::board"):
        assert not session.lets_in(session.certificate(principals)), principals
    stranger = session.certificate(f"web:{session.id}:none")
    assert not session.lets_in(stranger)
