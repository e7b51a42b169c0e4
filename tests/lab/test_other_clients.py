"""Other implementations of ssh than OpenSSH reach a session through the gateway, and an auditor looks at both servers.

None of these knows Berth's configuration: each gets the gateway, the session's name, and the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import asyncssh
import paramiko
import pytest
from ssh2.session import Session

from broker.gateway import admission
from broker.gateway.admission import Failure
from tests.deadlines import DEADLINE_S
from tests.site.deploy import GATEWAY_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.conftest import User

SAID = "alice in others"
COMMAND = 'echo "$USER in $BERTH_SESSION_NAME"'


@pytest.fixture(scope="module")
def session(people: dict[str, User]) -> Iterator[str]:
    alice = people["alice"]
    alice.ok("start", "others", "--profile", "base")
    yield "others"
    alice.remove("others")


@pytest.fixture
def key(alice: User) -> Path:
    return alice.laptop.config.with_name("alice_key")


@pytest.fixture
def port(alice: User) -> int:
    """The port of the gateway on this machine."""
    found = re.search(r"^\s*Port (\d+)$", alice.laptop.config.read_text().partition("berth-gateway")[2], re.MULTILINE)
    assert found
    return int(found[1])


def test_paramiko(session: str, key: Path, port: int) -> None:
    with paramiko.SSHClient() as jump, paramiko.SSHClient() as client:
        for each in (jump, client):
            each.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        login: dict[str, Any] = {"username": "alice", "key_filename": str(key), "allow_agent": False}
        jump.connect("127.0.0.1", port, **login)
        transport = jump.get_transport()
        assert transport is not None
        channel = transport.open_channel("direct-tcpip", (f"{session}.berth", 22), ("127.0.0.1", 0))
        client.connect(session, sock=channel, **login)
        _, out, _ = client.exec_command(COMMAND)
        assert out.read().decode().strip() == SAID
        with client.open_sftp() as sftp:
            with sftp.open("by-paramiko", "w") as file:
                file.write("x" * 1_000_000)
            assert sftp.stat("by-paramiko").st_size == 1_000_000
            sftp.remove("by-paramiko")


def test_asyncssh(session: str, key: Path, port: int) -> None:
    async def scene() -> None:
        login: dict[str, Any] = {
            "username": "alice",
            "client_keys": [str(key)],
            "known_hosts": None,
            "agent_path": None,
        }
        async with (
            asyncssh.connect("127.0.0.1", port, **login) as jump,
            asyncssh.connect(f"{session}.berth", tunnel=jump, **login) as client,
        ):
            done = await client.run(COMMAND, check=True)
            assert str(done.stdout).strip() == SAID

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_libssh2(session: str, key: Path, port: int) -> None:
    """libssh2 wants a socket for the connection inside, so a thread carries the bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as sock:
        jump = _libssh2_login(sock, key)
        channel = jump.direct_tcpip(f"{session}.berth", 22)
        near, far = socket.socketpair()
        jump.set_blocking(False)
        over = threading.Event()
        carrier = threading.Thread(target=_carry, args=(channel, far, over))
        carrier.start()
        try:
            client = _libssh2_login(near, key)
            process = client.open_session()
            process.execute(COMMAND)
            size, data = process.read()
            assert size > 0
            assert data.decode().strip() == SAID
        finally:
            over.set()
            carrier.join()
            near.close()
            far.close()


def _libssh2_login(sock: socket.socket, key: Path) -> Session:
    session = Session()
    session.set_timeout(30_000)
    session.handshake(sock)
    session.userauth_publickey_fromfile("alice", str(key), publickey=f"{key}.pub")
    return session


def _carry(channel: Any, far: socket.socket, over: threading.Event) -> None:  # noqa: ANN401 - ssh2 has no types
    far.setblocking(False)
    while not over.wait(0.001):
        size, data = channel.read()
        if size > 0:
            far.setblocking(True)
            far.sendall(data)
            far.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sent = far.recv(65536)
            while sent:
                _, written = channel.write(sent)
                sent = sent[max(written, 0) :]


def test_putty(alice: User, session: str, key: Path, port: int, tmp_path: Path) -> None:
    ppk = tmp_path / "key.ppk"
    _run("puttygen", str(key), "-O", "private", "-o", str(ppk))
    gateway = _fingerprint(alice, GATEWAY_PORT, "login")
    endpoint = alice.show(session)["endpoint"]
    host = _fingerprint(alice, endpoint["port"], endpoint["node"])
    proxy = f"plink -batch -i {ppk} -hostkey {gateway} -P {port} -l alice -nc {session}.berth:22 127.0.0.1"
    usual = ["-batch", "-i", str(ppk), "-hostkey", host, "-l", "alice", "-proxycmd", proxy]
    assert _run("plink", *usual, f"{session}.berth", COMMAND).strip() == SAID
    (tmp_path / "file").write_bytes(b"x" * 1_000_000)
    _run("pscp", *usual, str(tmp_path / "file"), f"{session}.berth:by-putty")
    assert _run("plink", *usual, f"{session}.berth", "wc -c <by-putty; rm by-putty").strip() == "1000000"


def _fingerprint(alice: User, port: int, host: str) -> str:
    scanned = alice.site.lab.sh(f"ssh-keyscan -T 10 -t ed25519 -p {port} {host} 2>/dev/null | ssh-keygen -lf -")
    return scanned.split()[1]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_auditor_finds_nothing_to_fail_at_the_gateway(port: int) -> None:
    report = _audited(port)
    assert report["banner"]["software"] == "Berth"
    assert "kex-strict-s-v00@openssh.com" in {each["algorithm"] for each in report["kex"]}, "Terrapin (CVE-2023-48795)"


def test_an_auditor_finds_nothing_to_fail_at_a_session(alice: User, session: str) -> None:
    """Its sshd is reached by a forward of its own."""
    endpoint = alice.show(session)["endpoint"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        local = probe.getsockname()[1]
    options = ["-T", "-o", "ExitOnForwardFailure=yes", "-L", f"{local}:{endpoint['node']}:{endpoint['port']}"]
    argv = alice.laptop.argv(session, ["echo here; exec sleep 60"], options=options)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as tunnel:
        assert tunnel.stdout is not None
        try:
            assert tunnel.stdout.readline() == b"here\n"
            report = _audited(local)
        finally:
            tunnel.kill()
    assert report["banner"]["software"].startswith("OpenSSH")


def _audited(port: int) -> dict[str, Any]:
    """Return the report of ssh-audit, after a check that it has no failure."""
    command = [sys.executable, "-m", "ssh_audit.ssh_audit", "--json", "--skip-rate-test", "-p", str(port), "127.0.0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    failed = [
        (kind, each["algorithm"], each["notes"]["fail"])
        for kind in ("kex", "key", "enc", "mac")
        for each in report[kind]
        if each.get("notes", {}).get("fail")
    ]
    assert failed == []
    assert report["cves"] == []
    return report


def test_the_penalties_are_sshds(alice: User) -> None:
    """`sshd -T` prints what sshd does by default; the lab has a recent one."""
    told = alice.site.lab.sh("/usr/sbin/sshd -T -f /dev/null -h /etc/ssh/ssh_host_ed25519_key").lower()
    constants = {name: float(value) for name, value in re.findall(r"([a-z0-9-]+):(\d[\d.]*)", told)}
    assert {
        "crash": Failure.ABUSE.value,
        "authfail": Failure.NO_LOGIN.value,
        "noauth": Failure.NO_ATTEMPT.value,
        "grace-exceeded": Failure.TOO_SLOW.value,
        "max": admission.MAX_PENALTY_S,
        "min": admission.MIN_ENFORCED_PENALTY_S,
        "max-sources4": admission.MAX_SOURCES,
    }.items() <= constants.items()
