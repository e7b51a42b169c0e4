"""The broker's certificate authority, judged by ssh-keygen(1)."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING

import asyncssh
import pytest

from broker.errors import InvalidInputError, RefusedError
from broker.ssh.certificates import CLOCK_SKEW_S, CertificateAuthority, HostCertificate
from tests.fakes import openssh

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.load_or_create(tmp_path / "ca" / "ca_key")


def shown(path: Path) -> dict[str, list[str]]:
    """Return the output of `ssh-keygen -L`: heading → the rest of the line and the indented lines below it."""
    done = subprocess.run(["ssh-keygen", "-L", "-f", path], check=True, capture_output=True, text=True)
    fields: dict[str, list[str]] = {}
    heading = ""
    for line in done.stdout.splitlines()[1:]:
        if line.startswith(" " * 16):
            fields[heading].append(line.strip())
        else:
            heading, _, value = line.strip().partition(": ")
            heading = heading.rstrip(":")
            fields[heading] = [value] if value else []
    return fields


def test_a_host_certificate_says_what_was_asked_for(authority: CertificateAuthority, tmp_path: Path) -> None:
    host = openssh.make_key(tmp_path / "host")
    line = authority.sign_host(
        openssh.public(host), ["alice.dev.berth", "dev.berth"], valid_seconds=3600, serial=2**63 + 5, key_id="01X/2.0"
    )
    path = tmp_path / "host-cert.pub"
    path.write_text(line + "\n")
    fields = shown(path)
    assert fields["Type"] == ["ssh-ed25519-cert-v01@openssh.com host certificate"]
    assert fields["Principals"] == ["alice.dev.berth", "dev.berth"]
    assert fields["Serial"] == [str(2**63 + 5)]
    assert fields["Key ID"] == ['"01X/2.0"']
    assert fields["Critical Options"] == ["(none)"]
    words = fields["Valid"][0].split()  # from T1 to T2, local time
    begins, ends = (datetime.fromisoformat(word).astimezone().timestamp() for word in (words[1], words[3]))
    assert ends - begins == 3600 + CLOCK_SKEW_S
    assert abs(begins - (time.time() - CLOCK_SKEW_S)) < 60
    parsed = HostCertificate.parse(line)
    assert (parsed.valid_after, parsed.valid_before) == (begins, ends)
    assert parsed.key_blob == asyncssh.read_public_key(f"{host}.pub").public_data


def test_the_signature_is_the_authoritys(authority: CertificateAuthority, tmp_path: Path) -> None:
    line = authority.sign_host(
        openssh.public(openssh.make_key(tmp_path / "h")), ["a.b"], valid_seconds=60, serial=1, key_id="x"
    )
    (tmp_path / "h-cert.pub").write_text(line)
    (tmp_path / "ca.pub").write_text(authority.public_line)
    ours = subprocess.run(
        ["ssh-keygen", "-l", "-f", tmp_path / "ca.pub"], check=True, capture_output=True, text=True
    ).stdout.split()[1]
    assert ours in shown(tmp_path / "h-cert.pub")["Signing CA"][0]


@pytest.mark.parametrize(
    "principals", [[], ["*"], ["*.berth"], ["a.b", "de?.berth"], ["a,b"], ["a b"], [""], ["a\n"], ["A.berth"], ["!a"]]
)
def test_names_that_would_match_more_than_one_host_are_refused(
    authority: CertificateAuthority, principals: list[str]
) -> None:
    key = authority.public_line
    with pytest.raises(InvalidInputError, match="host name"):
        authority.sign_host(key, principals, valid_seconds=60, serial=1, key_id="x")


def test_only_plain_keys_and_real_times_are_signed(authority: CertificateAuthority) -> None:
    with pytest.raises(InvalidInputError, match="options"):
        authority.sign_host(f"restrict {authority.public_line}", ["a"], valid_seconds=1, serial=1, key_id="x")
    with pytest.raises(InvalidInputError, match="above 0 s"):
        authority.sign_host(authority.public_line, ["a"], valid_seconds=0, serial=1, key_id="x")


def test_the_key_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ca" / "key"
    old = os.umask(0)
    try:
        first = CertificateAuthority.load_or_create(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["key"]
    assert CertificateAuthority.load_or_create(path).public_line == first.public_line


def test_two_that_start_at_once_get_the_same_key(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    lines = []

    def start() -> None:
        barrier.wait()
        lines.append(CertificateAuthority.load_or_create(tmp_path / "ca" / "key").public_line)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines) == 8
    assert len(set(lines)) == 1
    assert [each.name for each in (tmp_path / "ca").iterdir()] == ["key"]


def test_a_key_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "ca" / "key"
    CertificateAuthority.load_or_create(path)
    for what, mode, right in [(path, 0o640, "chmod 600"), (path.parent, 0o750, "chmod 700")]:
        before = what.stat().st_mode
        what.chmod(mode)
        with pytest.raises(RefusedError, match="other users may read") as caught:
            CertificateAuthority.load_or_create(path)
        assert right in caught.value.hint
        what.chmod(before)


def test_a_link_in_the_keys_place_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "key"
    CertificateAuthority.load_or_create(real)
    (tmp_path / "ca").mkdir(mode=0o700)
    (tmp_path / "ca" / "key").symlink_to(real)
    with pytest.raises(RefusedError, match="link"):
        CertificateAuthority.load_or_create(tmp_path / "ca" / "key")
    (tmp_path / "ca" / "key").unlink()
    (tmp_path / "ca" / "key").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RefusedError, match="link"):
        CertificateAuthority.load_or_create(tmp_path / "ca" / "key")
    assert not (tmp_path / "nowhere").exists()


def test_a_key_of_another_account_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ca" / "key"
    CertificateAuthority.load_or_create(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RefusedError, match="belongs to another account"):
        CertificateAuthority.load_or_create(path)


def test_a_damaged_key_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ca" / "key"
    CertificateAuthority.load_or_create(path)
    path.write_text("what was here?")
    with pytest.raises(RefusedError, match="not a private key") as caught:
        CertificateAuthority.load_or_create(path)
    assert "backup" in caught.value.hint
    assert path.read_text() == "what was here?"


def test_what_is_no_host_certificate_is_not_read_as_one(authority: CertificateAuthority) -> None:
    user = asyncssh.generate_private_key("ssh-ed25519")
    certificate = user.generate_user_certificate(user, "x", principals=["alice"])
    with pytest.raises(ValueError, match="not a host certificate"):
        HostCertificate.parse(certificate.export_certificate().decode())
    ecdsa = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
    line = authority.sign_host(ecdsa, ["a"], valid_seconds=1, serial=1, key_id="x")
    with pytest.raises(ValueError, match="not an ed25519 certificate"):
        HostCertificate.parse(line)
