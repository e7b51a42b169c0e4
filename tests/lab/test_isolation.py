"""Bob can do nothing to alice's session: not by command line, API, gateway, network, nor file system."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from slurm.lab.spec import NODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User


@pytest.fixture(scope="module")
def session(people: dict[str, User]) -> Iterator[str]:
    """A ready session of alice's with a file in it."""
    alice, name = people["alice"], "private"
    alice.ok("start", name, "--profile", "base", "--nodelist=c1")
    alice.laptop.ok(name, "echo secret >secret.txt; chmod 666 secret.txt")
    yield name
    alice.ok("stop", name)
    alice.ok("delete", name, "--yes")


@pytest.mark.parametrize(
    "words",
    [["show"], ["stop"], ["delete", "--yes"], ["logs"], ["events"], ["ssh"], ["exec"], ["connect"]],
    ids=lambda words: words[0],
)
def test_by_command_line(bob: User, alice: User, session: str, words: list[str]) -> None:
    verb, *rest = words
    tail = ["--", "true"] if verb == "exec" else []
    for target in (session, f"alice.{session}"):
        assert bob.berth(verb, target, *rest, *tail).returncode not in {0, 1}
    assert json.loads(bob.ok("list", "--json"))["sessions"] == []
    assert alice.show(session)["state"] == "ready"


@pytest.mark.parametrize(
    ("request_line", "body"),
    [
        ("GET /v1/sessions/{name}", None),
        ("GET /v1/sessions/{name}/log", None),
        ("GET /v1/sessions/{name}/events", None),
        ("POST /v1/sessions/{name}/stop", None),
        ("DELETE /v1/sessions/{name}", None),
        ("POST /v1/resolve", {"user": "alice", "target": "{name}"}),
        ("POST /v1/resolve", {"user": "bob", "target": "alice.{name}.berth"}),
        ("GET /v1/gateway/keys/alice", None),
        ("POST /v1/gateway/certificate", {"public_key": "ssh-ed25519 AAAA"}),
        ("POST /v1/rebuild", None),
    ],
)
def test_by_the_api(bob: User, alice: User, session: str, request_line: str, body: dict[str, str] | None) -> None:
    method, path = request_line.split()
    options = ["-X", method]
    if body is not None:
        options += ["-H", "Content-Type: application/json", "-d", json.dumps(body).replace("{name}", session)]
    status, answer = bob.request(path.replace("{name}", session), *options)
    assert status in {403, 404}, answer
    assert "secret" not in answer
    assert alice.show(session)["state"] == "ready"


def test_by_the_gateway_with_any_name(bob: User, alice: User, session: str) -> None:
    for target in (session, f"alice.{session}"):
        assert bob.laptop.ssh(target, "cat secret.txt").returncode == 255
    as_alice = bob.laptop.ssh(session, "cat secret.txt", options=["-l", "alice"])
    assert (as_alice.returncode, as_alice.stdout) == (255, b"")
    jump = f"ProxyCommand=ssh -F {bob.laptop.config} -l alice -W %h:22 berth-gateway"
    jump_as_alice = ["-o", "ProxyJump=none", "-o", jump]
    assert bob.laptop.ssh(f"alice.{session}", "cat secret.txt", options=jump_as_alice).returncode == 255
    assert alice.laptop.ok(session, "cat secret.txt") == b"secret\n"


_BARE_SSH = [
    *("ssh", "-F", "none"),
    *("-o", "BatchMode=yes"),
    *("-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "StrictHostKeyChecking=no"),
]


def test_by_the_network(bob: User, alice: User, session: str) -> None:
    endpoint = alice.show(session)["endpoint"]
    for user in ("alice", "bob"):
        argv = [*_BARE_SSH, "-p", str(endpoint["port"]), f"{user}@{endpoint['node']}", "cat secret.txt"]
        done = bob.site.lab.run(argv, user="bob")
        assert done.returncode == 255
        assert b"Permission denied (publickey)" in done.stderr


_PUBLIC = ["/tmp", "/var/tmp", "/run", "/dev/shm"]  # noqa: S108 - where a node's users meet


def test_by_the_file_system_on_every_node(bob: User, alice: User, session: str) -> None:
    shown = alice.show(session)
    directory = f"/shared/berth/alice/sessions/{shown['id']}"
    since = ["-newerct", f"@{shown['created_at']:.3f}"]  # programs of earlier tests may have left files
    lab = bob.site.lab
    assert lab.run(["ls", f"{directory}/run"], user="alice").returncode == 0
    for node in NODES:
        for path in (
            "/shared/berth/alice",
            f"{directory}/home/upper/secret.txt",
            f"{directory}/run/ssh_host_ed25519_key",
        ):
            assert lab.run(["cat", path], user="bob", node=node).returncode != 0
            assert lab.run(["ls", path], user="bob", node=node).returncode != 0
        readable = lab.run(
            ["find", *_PUBLIC, "-user", "alice", "-readable", "-not", "-type", "l", *since],
            user="bob",
            node=node,
        )
        assert readable.stdout == b"", node
    for path in ("/var/lib/berth/registry.db", "/var/lib/berth/ca_ed25519_key", "/var/lib/berth-gateway"):
        assert lab.run(["ls", path], user="bob").returncode != 0


def test_bob_cannot_take_alices_directory_first(bob: User) -> None:
    """The parent of the storage is sticky: another user may take a name, but does not count as its owner."""
    lab = bob.site.lab
    listing = lab.sh("stat -c '%U %a' /shared/berth/alice")
    assert listing == "alice 700"
    assert lab.run(["mv", "/shared/berth/alice", "/shared/berth/taken"], user="bob").returncode != 0


def test_nothing_secret_is_visible_to_others(bob: User, session: str) -> None:
    lab = bob.site.lab
    jobs = lab.run(["squeue", "-h", "-o", "%j %k"], user="bob").stdout.decode()
    assert session not in jobs
    status, cluster = bob.request("/v1/cluster")
    assert status == 200, cluster
    assert session not in cluster
    assert "alice" not in cluster
    for node in ("login", "c1"):
        commands = lab.sh("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '", user="bob", node=node)
        assert "PRIVATE KEY" not in commands
