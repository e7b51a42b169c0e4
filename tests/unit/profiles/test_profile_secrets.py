from __future__ import annotations

import base64
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from profiles.commit import secrets
from profiles.commit.filters import PathFilter
from profiles.errors import PatternError
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path


def body(length: int = 600) -> bytes:
    return base64.encodebytes(os.urandom(length))


def pem(kind: str, headers: bytes = b"") -> bytes:
    return b"-----BEGIN %s-----\n" % kind.encode() + headers + body() + b"-----END %s-----\n" % kind.encode()


@pytest.mark.parametrize(
    "path",
    [
        "etc/ssh/ssh_host_rsa_key",
        "etc/krb5.keytab",
        "etc/munge/munge.key",
        "etc/apt/auth.conf.d/x.conf",
        "etc/ssl/private/x",
        "root/.ssh/authorized_keys",
        "root/.ssh/deep/er",
        "opt/x/.ssh/id",
        "root/.netrc",
        "root/.git-credentials",
        "root/.docker/config.json",
        "root/.pypirc",
        "root/.bash_history",
        "root/.python_history",
        "root/.local/share/fish/fish_history",
        "root/.config/gh/hosts.yml",
        "root/.gnupg/private-keys-v1.d/x.key",
        "srv/service.keytab",
        "srv/.env",
        "srv/token",
        "srv/me.p12",
    ],
)
def test_places_of_secrets(path: str) -> None:
    def unread() -> bytes:
        raise AssertionError("the path says enough")

    assert secrets.find_secret(path, unread)


@pytest.mark.parametrize(
    "content",
    [
        pem("RSA PRIVATE KEY"),
        pem("OPENSSH PRIVATE KEY"),
        pem("PRIVATE KEY").replace(b"\n", b"\r\n"),
        pem("RSA PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n"),
        pem("PGP PRIVATE KEY BLOCK", b"\n"),
        b"# text before\n" + pem("EC PRIVATE KEY"),
        b"PuTTY-User-Key-File-3: ssh-ed25519\n",
        b"AGE-SECRET-KEY-1" + b"Q" * 58,
        b"\x05\x02\x00\x00\x00\x3c\x00\x02",
        b"\x05\x04\x00\x0c\x00\x01",
        b"token: ghp_" + b"a1" * 18,
        b"glpat-" + b"x" * 20,
        b"key = AKIA" + b"A" * 16,
        b"hf_" + b"a" * 34,
    ],
)
def test_contents_of_secrets(content: bytes) -> None:
    assert secrets.find_secret("opt/x", lambda: content)


TOKENS = [
    *(b"gh" + kind + b"_" + b"a1" * 18 for kind in (b"p", b"o", b"u", b"s", b"r")),
    b"github_pat_" + b"B2" * 25,
    b"npm_" + b"c3" * 18,
    b"hf_" + b"d" * 30,
    b"glpat-" + b"e-" * 10,
    *(b"xox" + kind + b"-" + b"4" * 20 for kind in (b"a", b"b", b"p", b"r", b"s")),
    b"pypi-AgE" + b"f_" * 25,
    b"AKIA" + b"G5" * 8,
    b"ASIA" + b"H6" * 8,
]
"""One of each kind, as short as it can be."""


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("before", [b"", b"A_-" * 4096 + b"\nkey=", b"gh glpat hf npm xox A K_ -\n"])
def test_token_is_found_after_any_text_and_not_if_it_is_too_short(token: bytes, before: bytes) -> None:
    assert secrets.find_secret("opt/x", lambda: before + token + b"\n") == "a token"
    assert secrets.find_secret("opt/x", lambda: before + token[:-1] + b"\n") == ""


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("opt/tool", b"\x7fELF" + bytes(100)),
        (
            "opt/ssh/key.py",
            b'KEY = b"-----BEGIN RSA PRIVATE KEY-----\\n"\nif line.startswith("-----BEGIN PRIVATE KEY-----"):\n',
        ),
        ("opt/doc.md", b"-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n"),
        ("etc/ssl/certs/ca.pem", pem("CERTIFICATE")),
        ("opt/key.pub", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5o0mKIvqRkL7qs1Y8k2NVLI4sYrM0QZQ0dKz8UgQ0b me\n"),
        ("opt/lib/token.py", b"class Token: ..."),
        ("opt/lib/urls.py", b'"https://user:password@example.org/"\n'),
        ("etc/app.conf", b"# proxy = http://user:password@example.org/\nproxy = http://proxy.example.org:3128/\n"),
        ("root/.npmrc", b"registry=https://registry.example.org/\n"),
        ("etc/shadow", b"root:*:1:0:99999:7:::\nsshd:!:1::::::\n"),
        ("etc/motd", b""),
    ],
)
def test_what_is_no_secret(path: str, content: bytes) -> None:
    assert secrets.find_secret(path, lambda: content) == ""


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("root/.npmrc", b"//registry.example.org/:_authToken=abc\n"),
        ("etc/pip.conf", b"[global]\nindex-url = https://me:secret@example.org/simple\n"),
        ("root/.config/pip/pip.conf", b"extra-index-url=https://__token__:abc@example.org\n"),
        ("etc/shadow", b"root:$y$j9T$abc$def:1:0:99999:7:::\n"),
        ("etc/shadow-", b"daemon:*:1\nroot:!$6$abc$def:1:0:99999:7:::\n"),
    ],
)
def test_settings_with_secrets(path: str, content: bytes) -> None:
    assert secrets.find_secret(path, lambda: content)


def test_keys_of_openssh_are_known(tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "x", "-f", tmp_path / "key"], check=True, timeout=DEADLINE_S
    )
    assert secrets.find_secret("opt/key", (tmp_path / "key").read_bytes) == "a private key"
    assert secrets.find_secret("opt/key.pub", (tmp_path / "key.pub").read_bytes) == ""


def why(path_filter: PathFilter, path: str, content: bytes = b"", *, directory: bool = False) -> str:
    return path_filter.why_not(path, directory=directory, head=None if directory else lambda: content)


def test_the_machines_and_the_moments_own_is_left_out() -> None:
    path_filter = PathFilter()
    for path in ("home", "home/alice/x", "tmp/x", "run/x", "proc/1", "var/tmp/x", ".singularity.d/env/x"):
        assert why(path_filter, path) == "never part of an image"
    assert why(path_filter, "etc/resolv.conf") == "the machine's own"
    assert why(path_filter, "var/log/x/y") == "a log"
    assert why(path_filter, "root/.cache/x") == "a cache"
    assert why(path_filter, "var/log/x", directory=True) == "", "programs may want the folder"
    assert why(path_filter, "root/.netrc").startswith("may be secret")
    for path in ("homes", "etc/hosts.allow", "opt/tmp/x", "var/logs", "usr/bin/x"):
        assert why(path_filter, path) == ""


def test_the_user_has_the_last_word_but_for_what_never_goes_in() -> None:
    path_filter = PathFilter(include=["/opt/*.token", "/root", "/var/log/keep/"], exclude=["/opt/data", "/root/.ssh"])
    path_filter.check()
    assert why(path_filter, "opt/a.token") == ""
    assert why(path_filter, "root/.netrc") == ""
    assert why(path_filter, "var/log/keep/deep/x") == ""
    assert why(path_filter, "var/log/other") == "a log"
    assert why(path_filter, "root/.ssh/id") == "excluded", "what both name is left out"
    assert why(path_filter, "opt/data") == why(path_filter, "opt/data/x/y", directory=True) == "excluded"
    assert why(path_filter, "opt/database") == ""


@pytest.mark.parametrize("pattern", ["opt", "", "/", "//", "~/x"])
def test_patterns_are_absolute(pattern: str) -> None:
    for path_filter in (PathFilter(include=[pattern]), PathFilter(exclude=[pattern])):
        with pytest.raises(PatternError, match="no absolute path"):
            path_filter.check()


@pytest.mark.parametrize("pattern", ["/home", "/home/alice/.bashrc", "/run/x", "/tmp"])  # noqa: S108 - not of this machine
def test_nobody_can_ask_for_the_home(pattern: str) -> None:
    with pytest.raises(PatternError, match="cannot go into an image"):
        PathFilter(include=[pattern]).check()
    PathFilter(exclude=[pattern]).check()
