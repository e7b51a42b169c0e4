"""A site that lets people in by certificates: from a laptop, from the login node, as root, until they are revoked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from tests.lab.services import restart
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.conftest import User
    from tests.site.deploy import Site

CONFIG = "/etc/berth/config.yaml"


@pytest.fixture(scope="module", autouse=True)
def by_certificates(site: Site, people: dict[str, User]) -> Iterator[None]:
    """The site wants it so from now on, and as it was in the end."""
    assert people
    before = site.lab.sh(f"cat {CONFIG}")
    changed = yaml.safe_load(before)
    changed.setdefault("ssh", {})["login_with"] = "certificates"
    _configure(site, yaml.safe_dump(changed))
    yield
    _configure(site, before)


def _configure(site: Site, text: str) -> None:
    site.run(f"sh -c 'cat >{CONFIG}'", user="root", stdin=text.encode())
    site.kill("broker")
    wait_for(lambda: site.ended("broker"), what="the controller's end")
    restart(site)
    site.new_gateway_workers()  # they would believe what they last heard for some seconds


def certify(user: User) -> Path:
    """Get the laptop's key a certificate, as a laptop does by ssh to the login node; where ssh takes it from."""
    place = user.laptop.config.with_name(f"{user.name}_key-cert.pub")
    place.write_text(user.ok("login", "--public-key", "-", stdin=user.laptop.public_key))
    return place


@pytest.fixture
def certificate(alice: User) -> Iterator[Path]:
    place = certify(alice)
    yield place
    place.unlink()


def test_a_certificate_opens_gateway_and_session_and_a_key_does_not(alice: User, name: str, certificate: Path) -> None:
    alice.ok("start", name, "--profile", "base")
    done = alice.laptop.ssh(name, "cat /run/berth/session/authorized_keys")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.decode().splitlines()
    assert line.startswith('cert-authority,principals="alice" ssh-ed25519 ')
    kept = certificate.read_text()
    certificate.write_text("")
    refused = alice.laptop.ssh(name, "true")
    assert refused.returncode == 255
    assert b"Permission denied (publickey)" in refused.stderr
    certificate.write_text(kept)
    alice.laptop.ok(name, "true")


def test_the_login_nodes_ways_in_get_one_by_themselves(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    assert alice.ok("exec", name, "--", "id", "-un").strip() == "alice"
    assert alice.ok("exec", "--root", "--yes", name, "--", "id", "-un", seconds=120).strip() == "root"
    assert alice.ok("ssh", name, "id", "-un").strip() == "alice"


def test_who_has_logged_out_gets_in_no_more(alice: User, name: str, certificate: Path) -> None:
    alice.ok("start", name, "--profile", "base")
    alice.laptop.ok(name, "true")
    alice.ok("logout")
    alice.site.new_gateway_workers()  # which have not asked yet, and hold nothing against the laptop
    assert alice.laptop.ssh(name, "true").returncode == 255
    place = alice.show(name)["endpoint"]
    key = "/shared/home/alice/revoked"
    alice.site.lab.sh(f"rm -f {key}*", user="alice")
    for end, path in (("", certificate.with_name("alice_key")), ("-cert.pub", certificate)):
        alice.site.run(f"sh -c 'umask 077; cat >{key}{end}'", user="alice", stdin=path.read_bytes())
    straight = f"ssh -F none -i {key} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    alice.ok("exec", name, "--", "true")  # by a certificate of now; it also has the session know what is revoked
    done = alice.site.lab.run(
        ["sh", "-c", f"{straight} -p {place['port']} alice@{place['node']} true"], user="alice", seconds=30
    )
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr
    certify(alice)
    alice.site.new_gateway_workers()
    alice.laptop.ok(name, "true")


def test_the_users_authority_gets_another_key_and_nobody_notices(alice: User, name: str, certificate: Path) -> None:
    assert certificate.exists()
    alice.ok("start", name, "--profile", "base")
    assert alice.berth("ca", "rotate", "user").returncode != 0
    alice.site.run("berth ca rotate user", user="root")
    alice.laptop.ok(name, "true")  # with what the last key has signed
    certify(alice)
    alice.site.new_gateway_workers()
    alice.laptop.ok(name, "true")  # with what the new key has signed
    listed = [line.split() for line in alice.ok("ca", "list").splitlines()]
    former = next(words[1] for words in listed if words[0] == "user" and words[2] == "former")
    alice.ok("exec", name, "--", "true")
    alice.site.run(f"berth ca retire user {former} --now", user="root")
    assert alice.ok("exec", name, "--", "echo", "in") == "in\n", "with another certificate for the login node's key"
    alice.laptop.ok(name, "true")
