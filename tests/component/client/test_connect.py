"""`berth connect`: resolving and relaying, with real sockets, pipes and ssh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.client import proxy_command
from broker.errors import BerthError, ConflictError, ControllerUnavailableError
from broker.schema.connections import ConnectionReport
from tests.deadlines import DEADLINE_S
from tests.fakes import openssh
from tests.fakes.full_listener import full_listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BULK = 16 * 2**20


@pytest.fixture
def api() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="berth-") as place:  # short: a socket's path has at most 107 bytes
        yield Path(place) / "api.sock"


@contextlib.contextmanager
def controller(path: Path, *answers: bytes) -> Iterator[list[bytes]]:
    """Say each of `answers` to one who asks."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                client, _ = listener.accept()
                with client:
                    asked.append(client.recv(65536))
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield asked
        thread.join()


def http(status: int, body: object) -> bytes:
    return b"HTTP/1.1 %d Whatever\r\nContent-Type: application/json\r\n\r\n" % status + json.dumps(body).encode()


def test_resolve_asks_and_understands(api: Path) -> None:
    found = {"session_id": "01", "owner": "alice", "name": "dev", "generation": "1.0", "host": "c2", "port": 4022}
    with controller(api, http(200, found)) as asked:
        assert proxy_command.resolve_target(api, "alice", "dev.berth", print) == ("c2", 4022, "01", "1.0")
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/resolve HTTP/1.0\r\n")
    assert json.loads(body) == {"user": "alice", "target": "dev.berth", "patient": True, "shown": ""}


def test_a_session_on_its_way_is_waited_for_and_each_step_told_once(api: Path) -> None:
    found = {"session_id": "01", "owner": "alice", "name": "dev", "generation": "1.0", "host": "c2", "port": 4022}
    steps = ["dev is queued", "dev is queued", "dev is starting"]
    waiting = [http(503, {"reason": "waiting", "message": step, "hint": ""}) for step in steps]
    told: list[str] = []
    with controller(api, *waiting, http(200, found)) as asked:
        assert proxy_command.resolve_target(api, "alice", "dev.berth", told.append) == ("c2", 4022, "01", "1.0")
    assert told == ["dev is queued", "dev is starting"]
    assert [json.loads(each.partition(b"\r\n\r\n")[2])["shown"] for each in asked] == ["", steps[0], steps[0], steps[2]]


def test_resolve_raises_the_refusal_as_it_was_meant(api: Path) -> None:
    refusal = {"reason": "conflict", "message": "dev is stopped", "hint": "berth start dev"}
    with controller(api, http(409, refusal)), pytest.raises(ConflictError, match="dev is stopped") as caught:
        proxy_command.resolve_target(api, "alice", "dev", print)
    assert caught.value.hint == "berth start dev"


@pytest.mark.parametrize("body", [{}, [], "oops", {"host": "c"}, {"host": "c", "port": "ssh"}])
def test_an_answer_that_names_no_place_is_no_answer(api: Path, body: object) -> None:
    with controller(api, http(200, body)), pytest.raises(ControllerUnavailableError, match="invalid response"):
        proxy_command.resolve_target(api, "alice", "dev", print)


def there(port: int) -> proxy_command.Destination:
    return proxy_command.Destination("127.0.0.1", port, "01session", "1.0")


@contextlib.contextmanager
def session(talk: Callable[[socket.socket], None]) -> Iterator[proxy_command.Destination]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                talk(client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield there(listener.getsockname()[1])
        thread.join()


def read_all(source: socket.socket) -> bytes:
    return b"".join(iter(lambda: source.recv(65536), b""))


@contextlib.contextmanager
def relaying(to: proxy_command.Destination) -> Iterator[tuple[int, int]]:
    """Run the relay with pipes; gives the ends for writing to its stdin and reading its stdout."""
    stdin, to_stdin = os.pipe()
    from_stdout, stdout = os.pipe()
    thread = threading.Thread(
        target=proxy_command.relay, args=(to, stdin, stdout), kwargs={"answer_timeout": DEADLINE_S}
    )
    thread.start()
    try:
        yield to_stdin, from_stdout
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    finally:
        for descriptor in (from_stdout, stdin):
            os.close(descriptor)


def drain(descriptor: int) -> bytes:
    return b"".join(iter(lambda: os.read(descriptor, 65536), b""))


def feed(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def test_the_session_may_answer_after_the_client_has_ended() -> None:
    up, down = os.urandom(BULK), os.urandom(BULK)
    got = []

    def talk(client: socket.socket) -> None:
        got.append(read_all(client))
        client.sendall(down)

    with session(talk) as to, relaying(to) as (stdin, stdout):
        feed(stdin, up)
        assert drain(stdout) == down
    assert got == [up]


def test_the_client_may_go_on_after_the_session_has_ended() -> None:
    up, down = os.urandom(BULK), os.urandom(BULK)
    got = []

    def talk(client: socket.socket) -> None:
        client.sendall(down)
        client.shutdown(socket.SHUT_WR)
        got.append(read_all(client))

    with session(talk) as to, relaying(to) as (stdin, stdout):
        assert drain(stdout) == down
        feed(stdin, up)
    assert got == [up]


def test_both_directions_at_once() -> None:
    up, down = os.urandom(BULK), os.urandom(BULK)
    got = []

    def talk(client: socket.socket) -> None:
        sender = threading.Thread(target=client.sendall, args=(down,))
        sender.start()
        got.append(read_all(client))
        sender.join()

    with session(talk) as to, relaying(to) as (stdin, stdout):
        sender = threading.Thread(target=feed, args=(stdin, up))
        sender.start()
        assert drain(stdout) == down
        sender.join()
    assert got == [up]


def test_a_session_that_breaks_ends_it_though_stdin_stays_open() -> None:
    def talk(client: socket.socket) -> None:
        client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close() sends a reset

    with session(talk) as to, relaying(to) as (stdin, stdout):
        os.write(stdin, b"x")
        assert drain(stdout) == b""
    os.close(stdin)


def test_nobody_there_is_said_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(BerthError, match="the session does not answer"):
        proxy_command.relay(there(port), answer_timeout=DEADLINE_S)


def test_node_that_accepts_no_connection_is_given_the_sites_own_time() -> None:
    with full_listener() as port, pytest.raises(BerthError, match="the session does not answer"):
        proxy_command.relay(there(port), answer_timeout=0.2)


def test_the_controller_is_told_when_it_begins_and_what_came_of_it(api: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 5022 198.51.100.1 22")
    stdin, to_stdin = os.pipe()
    from_stdout, stdout = os.pipe()

    def talk(client: socket.socket) -> None:
        client.sendall(read_all(client) + b"!")

    with controller(api, http(200, {"noted": 1}), http(200, {"noted": 1})) as asked, session(talk) as to:
        thread = threading.Thread(
            target=proxy_command.relay_and_report,
            args=(api, "alice", to, stdin, stdout),
            kwargs={"answer_timeout": DEADLINE_S},
        )
        thread.start()
        while not asked:
            thread.join(0.01)
        os.write(to_stdin, b"abc")
        os.close(to_stdin)
        assert drain(from_stdout) == b"abc!"
        thread.join(DEADLINE_S)
    for descriptor in (stdin, from_stdout):
        os.close(descriptor)
    reports = [ConnectionReport.model_validate_json(each.partition(b"\r\n\r\n")[2]) for each in asked]
    (begun,), (ended,) = (report.connections for report in reports)
    assert (begun.user, begun.peer, begun.session_id, begun.generation) == (
        "alice",
        "192.0.2.7:5022",
        "01session",
        "1.0",
    )
    assert begun.ended_at is None
    assert (ended.id, ended.sent, ended.received, ended.end) == (begun.id, 3, 4, "closed")
    assert ended.ended_at is not None


def test_the_controller_is_told_again_while_it_stands(api: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_command, "REPORT_INTERVAL_S", 0.01)
    stdin, to_stdin = os.pipe()
    from_stdout, stdout = os.pipe()

    def talk(client: socket.socket) -> None:
        client.sendall(read_all(client))

    with controller(api, *[http(200, {"noted": 1})] * 3) as asked, session(talk) as to:
        thread = threading.Thread(
            target=proxy_command.relay_and_report,
            args=(api, "alice", to, stdin, stdout),
            kwargs={"answer_timeout": DEADLINE_S},
        )
        thread.start()
        while len(asked) < 3:
            thread.join(0.01)
        os.close(to_stdin)
        assert drain(from_stdout) == b""
        thread.join(DEADLINE_S)
    for descriptor in (stdin, from_stdout):
        os.close(descriptor)
    reports = [ConnectionReport.model_validate_json(each.partition(b"\r\n\r\n")[2]) for each in asked]
    assert {(each.id, each.ended_at) for report in reports for each in report.connections} == {
        (reports[0].connections[0].id, None)
    }


def test_a_controller_that_is_away_keeps_nobody(api: Path) -> None:
    proxy_command._note(api, {"id": "x"})


def test_it_starts_fast_because_it_imports_little() -> None:
    code = "import sys, broker.client.proxy_command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"pydantic", "asyncssh", "httpx", "http.client", "asyncio", "yaml", "click", "broker.schema"}
    assert not heavy & set(done.stdout.split())


def test_ssh_goes_through_it(tmp_path: Path) -> None:
    async def scene() -> None:
        key = openssh.make_key(tmp_path / "key")
        async with openssh.sshd(tmp_path, openssh.public(key)) as port:
            to = f"proxy_command.Destination('127.0.0.1', {port}, '', '')"
            code = f"from broker.client import proxy_command; proxy_command.relay({to}, answer_timeout={DEADLINE_S})"
            options = [f'ProxyCommand={sys.executable} -c "{code}"', "StrictHostKeyChecking=no", "BatchMode=yes"]
            options += ["UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "IdentitiesOnly=yes"]
            words = [word for option in options for word in ("-o", option)]
            ssh: list[str | Path] = ["ssh", "-F", "none", "-i", key, "-l", openssh.me(), *words, "dev"]
            data = os.urandom(BULK)
            done = await openssh.run([*ssh, "cat; exit 7"], data)
            assert (done.code, done.err) == (7, "")
            assert done.out == data

    asyncio.run(scene())
