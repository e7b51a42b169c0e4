"""A laptop behind a router that forgets connections on which nothing is said: a real one, of the kernel's."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from slurm.lab.network import SWITCH
from slurm.lab.spec import ADDRESSES, LOGIN
from tests.deadlines import DEADLINE_S
from tests.site import deploy
from tests.site.laptop import THERE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

pytestmark = pytest.mark.waits

FORGETS = 20
"""Seconds; home routers take minutes, some firewalls less than one. More than the 15 s between our keepalives."""
IDLE = 45
"""Seconds without a key."""
ROUTER, OUTSIDE = "10.77.0.200", "10.78.0.2"

RULES = """
table ip nat {
  chain out { type nat hook postrouting priority 100; oifname "lab0" masquerade; }
}
table ip filter {
  chain through { type filter hook forward priority 0; ct state invalid drop; iifname "lab0" ct state new drop; }
}
"""
BARE = f"""
import socket, sys, time
connection = socket.create_connection(("{ADDRESSES[LOGIN]}", 22), 10)
connection.recv(100)
time.sleep({IDLE})
connection.settimeout(5)
try:
    connection.sendall(b"SSH-2.0-idle\\r\\n")
    print("remembered" if connection.recv(100) else "ended")
except OSError:
    print("forgotten")
"""
"""A TCP connection to the login node's own sshd, which carries no bytes for a while."""


@pytest.fixture
def outside(lab: Lab) -> Iterator[str]:
    """A network namespace whose only way into the lab is that router; it goes with the lab at the latest."""
    router, outside, switch = (lab.place.netns(name) for name in ("nat", "outside", SWITCH))
    commands = [
        f"ip netns add {router}",
        f"ip netns add {outside}",
        f"ip -n {switch} link add nat type veth peer name lab0 netns {router}",
        f"ip -n {switch} link set nat master br0 up",
        f"ip -n {router} link add out0 type veth peer name eth0 netns {outside}",
        f"ip -n {router} addr add {ROUTER}/24 dev lab0",
        f"ip -n {router} addr add 10.78.0.1/24 dev out0",
        f"ip -n {outside} addr add {OUTSIDE}/24 dev eth0",
        *(f"ip -n {router} link set {link} up" for link in ("lo", "lab0", "out0")),
        *(f"ip -n {outside} link set {link} up" for link in ("lo", "eth0")),
        f"ip -n {outside} route add default via 10.78.0.1",
    ]
    settings = {
        "net/ipv4/ip_forward": 1,
        "net/netfilter/nf_conntrack_tcp_timeout_established": FORGETS,
        "net/netfilter/nf_conntrack_tcp_loose": 0,
    }
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, timeout=DEADLINE_S)
        inside = ["ip", "netns", "exec", router]
        subprocess.run([*inside, "nft", "-f", "-"], input=RULES, text=True, check=True, timeout=DEADLINE_S)
        for name, value in settings.items():
            subprocess.run([*inside, "sh", "-c", f"echo {value} >/proc/sys/{name}"], check=True, timeout=DEADLINE_S)
        yield outside
    finally:
        for namespace in (router, outside):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, timeout=DEADLINE_S)


def test_a_connection_outlives_a_router_that_forgets_silent_ones(
    alice: User, name: str, outside: str, tmp_path: Path
) -> None:
    """By the keepalives of `berth ssh-config`, and by the gateway's alone for clients that have none."""
    alice.ok("start", name, "--profile", "base")
    key = alice.laptop.config.with_name("alice_key")
    gateway = f"{ADDRESSES[LOGIN]}:{deploy.GATEWAY_PORT}"
    files = json.loads(
        alice.ok("ssh-config", "--json", "--via", "gateway", "--gateway", gateway, "--identity", str(key))
    )
    hosts = tmp_path / "known_hosts"
    hosts.write_text(files["known_hosts"])
    ours, silent = tmp_path / "ours", tmp_path / "silent"
    ours.write_text(files["ssh_config"].replace(THERE, str(hosts)))
    assert ours.read_text().count("ServerAliveInterval 15") == 2
    silent.write_text(ours.read_text().replace("ServerAliveInterval 15", "ServerAliveInterval 0"))

    def typed_late(config: Path) -> str:
        argv = ["ip", "netns", "exec", outside, "ssh", "-F", str(config), "-o", "BatchMode=yes", f"{name}.berth"]
        script = f'(sleep {IDLE}; echo still here) | timeout {IDLE + 20} "$@" cat'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *argv], capture_output=True, check=False, timeout=IDLE + 40, text=True
        )
        return done.stdout or done.stderr

    def bare() -> str:
        argv = ["ip", "netns", "exec", outside, "python3", "-c", BARE]
        return subprocess.run(argv, capture_output=True, check=True, timeout=IDLE + 40, text=True).stdout.strip()

    with ThreadPoolExecutor(3) as pool:
        forgotten, kept = pool.submit(bare), list(pool.map(typed_late, (ours, silent)))
        assert forgotten.result() == "forgotten", "the router remembers: this shows nothing"
    assert kept == ["still here\n"] * 2
