"""Public keys at the edge, against what ssh-keygen(1) makes and says."""

from __future__ import annotations

import base64
import struct
import subprocess
import unicodedata
from typing import TYPE_CHECKING

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import InvalidInputError
from broker.ssh.keys import MAX_FILE_KEYS, MAX_LINE_CHARS, SIGNATURES, PublicKey, plain_keys
from tests.fakes import openssh

if TYPE_CHECKING:
    from pathlib import Path

ED25519 = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
OTHER = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


def keygen(path: Path) -> str:
    """Ask ssh-keygen for the fingerprint."""
    done = subprocess.run(["ssh-keygen", "-l", "-f", path], check=True, capture_output=True, text=True)
    return done.stdout.split()[1]


def security_key(algorithm: str) -> str:
    """A key of a hardware token, which ssh-keygen makes only with one plugged in."""

    def string(value: bytes) -> bytes:
        return struct.pack(">I", len(value)) + value

    body = string(algorithm.encode())
    if "ed25519" in algorithm:
        body += string(base64.b64decode(ED25519.split()[1])[-32:])
    else:
        ecdsa = asyncssh.generate_private_key("ecdsa-sha2-nistp256").public_data
        body += string(b"nistp256") + ecdsa[-69:]
    return f"{algorithm} {base64.b64encode(body + string(b'ssh:')).decode()} token"


@pytest.mark.parametrize(
    ("kind", "bits"), [("ed25519", 256), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 2048), ("rsa", 3072)]
)
def test_what_ssh_keygen_makes_is_understood(tmp_path: Path, kind: str, bits: int) -> None:
    path = openssh.make_key(tmp_path / "key", kind, "-b", str(bits))
    line = openssh.public(path)
    key = PublicKey.parse(f"  {line}\r\n")
    assert key.line == line
    assert key.comment == "key@test"
    assert key.fingerprint == keygen(path)


@pytest.mark.parametrize("algorithm", ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"])
def test_keys_of_hardware_tokens_are_understood(tmp_path: Path, algorithm: str) -> None:
    line = security_key(algorithm)
    (tmp_path / "key.pub").write_text(line + "\n")
    assert PublicKey.parse(line).fingerprint == keygen(tmp_path / "key.pub")


def test_sha1_is_no_signature() -> None:
    assert "ssh-rsa" not in SIGNATURES
    assert "rsa-sha2-256" in SIGNATURES


BLOB = ED25519.split()[1]

REFUSED = {
    "": "the text has no public key",
    "# ssh-ed25519": "the text has no public key",
    "-----BEGIN OPENSSH PRIVATE KEY-----": "private key",
    "ssh-ed25519": "is missing",
    f"ssh-dss {BLOB}": "DSA",
    f"ssh-ed25519-cert-v01@openssh.com {BLOB}": "certificate",
    f'command="id" {ED25519}': "options before a key",
    f"restrict {ED25519}": "options before a key",
    f"no-pty,no-x11-forwarding {ED25519}": "options before a key",
    f"cert-authority {ED25519}": "options before a key",
    f"from=10.0.0.0/8 {ED25519}": "options before a key",
    f"ssh-ed448 {BLOB}": "unknown key type",
    BLOB: "unknown key type",
    f"ssh-ed25519 {BLOB[:-4]}": "damaged",
    f"ssh-ed25519 {BLOB}AAAA": "damaged",
    f"ssh-ed25519 {BLOB[:20]}!{BLOB[21:]}": "damaged",
    f"ecdsa-sha2-nistp256 {BLOB}": "damaged",
    f"ssh-rsa {BLOB}": "damaged",
    f"{ED25519}\n{OTHER}": "several lines",
    f"{ED25519}\r{OTHER}": "several lines",
    f"{ED25519}\0": "control character",
    f"{ED25519} me\x1b[2J": "control character",
    f"{ED25519} me\u2028{OTHER}": "control character",
    f"ssh-ed25519\v{BLOB}": "control character",
    f"ssh-ed25519\u00a0{BLOB}": "not a public key",
    f"\u017fsh-ed25519 {BLOB}": "not a public key",
    f"ssh-ed25519 {BLOB} {'x' * MAX_LINE_CHARS}": "at most",
}


@pytest.mark.parametrize("line", REFUSED, ids=range(len(REFUSED)))
def test_everything_else_is_refused_with_a_remedy(line: str) -> None:
    with pytest.raises(InvalidInputError, match=REFUSED[line]) as caught:
        PublicKey.parse(line)
    assert caught.value.hint


def test_a_weak_rsa_key_is_refused(tmp_path: Path) -> None:
    line = openssh.public(openssh.make_key(tmp_path / "weak", "rsa", "-b", "1024"))
    with pytest.raises(InvalidInputError, match="2048 to 16384 bits, this key has 1024"):
        PublicKey.parse(line)


def test_a_comment_cannot_play_with_the_terminal() -> None:
    assert PublicKey.parse(f"{ED25519} me\u202e at\u00a0home").comment == "me athome"


@given(st.text(max_size=300))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    try:
        key = PublicKey.parse(text)
    except InvalidInputError:
        return
    assert PublicKey.parse(key.line) == key


@given(comment=st.text(max_size=300))
def test_a_key_says_the_same_after_a_round_trip(comment: str) -> None:
    try:
        key = PublicKey.parse(f"{ED25519} {comment}")
    except InvalidInputError:
        assert any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in comment)
        return
    assert PublicKey.parse(key.line) == key
    assert key.line.splitlines() == [key.line]


def test_a_comment_may_name_private_keys() -> None:
    key = PublicKey.parse(f"{ED25519} PRIVATE\u202e KEY")
    assert PublicKey.parse(key.line) == key


def test_from_a_users_own_file_only_plain_keys_are_taken() -> None:
    file = f"""
# my keys
{ED25519} laptop

   {OTHER}
command="/bin/backup" {asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()}
ssh-ed25519 damaged
{ED25519} again
"""
    assert [key.line for key in plain_keys(file)] == [f"{ED25519} laptop", OTHER]


@pytest.mark.parametrize("narrow", ['command="echo a b" ', "restrict ", 'from="10.*",no-pty ', "expiry-time=20200101 "])
@pytest.mark.parametrize("plain_first", [True, False])
def test_a_key_that_was_narrowed_anywhere_is_not_widened(narrow: str, *, plain_first: bool) -> None:
    lines = [f"{ED25519} plain", f"{narrow}{ED25519} narrowed", OTHER]
    if not plain_first:
        lines.reverse()
    assert [key.line for key in plain_keys("\n".join(lines))] == [OTHER]


def test_a_comment_line_narrows_nothing() -> None:
    assert len(plain_keys(f"# restrict {ED25519}\n{ED25519}\n")) == 1


def test_a_huge_file_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    blob = base64.b64decode(BLOB)

    def parse(line: str) -> PublicKey:
        nonlocal read
        read += 1
        return PublicKey("ssh-ed25519", base64.b64decode(line.split(" ")[1]))

    def encoded(number: int) -> str:
        return base64.b64encode(blob[:-32] + number.to_bytes(32, "big")).decode()

    monkeypatch.setattr(PublicKey, "parse", parse)
    assert len(plain_keys("".join(f"ssh-ed25519 {encoded(n)}\n" for n in range(20_000)))) == MAX_FILE_KEYS
    assert read == MAX_FILE_KEYS
