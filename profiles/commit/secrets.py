"""Find files that may hold secrets, by their path and by their content. An image must not have such files.

Everybody who can reach its store can read an image. So these rules rather leave out too much: the user who commits a
session sees the list and can correct it. Unchanged files of packages are not checked.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase, translate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD_BYTES = 1 << 20
"""Bytes of a file that are looked at."""

_PLACES = (
    ("etc/ssh/ssh_host_*", "an ssh host key"),
    ("etc/krb5.keytab", "a Kerberos keytab"),
    ("etc/munge/munge.key", "munge's key"),
    ("etc/apt/auth.conf", "apt's passwords"),
    ("etc/apt/auth.conf.d/*", "apt's passwords"),
    ("etc/ssl/private/*", "a private key"),
    ("*/.ssh/*", "ssh keys and their like"),
    ("*/.gnupg/*", "GnuPG's keys"),
    ("*/.aws/*", "a cloud's credentials"),
    ("*/.azure/*", "a cloud's credentials"),
    ("*/.config/gcloud/*", "a cloud's credentials"),
    ("*/.kube/*", "a cluster's credentials"),
    ("*/.docker/config.json", "a registry's credentials"),
    ("*/.config/containers/auth.json", "a registry's credentials"),
    ("*/.apptainer/*", "a registry's credentials"),
    ("*/.singularity/*", "a registry's credentials"),
    ("*/.config/gh/hosts.yml", "a token"),
    ("*/.config/git/credentials", "git's passwords"),
    ("*/.local/share/keyrings/*", "a keyring"),
    ("*/.subversion/auth/*", "Subversion's passwords"),
    ("*/.mozilla/*", "a browser's data"),
)
"""Patterns of paths, in which `*` also stands for slashes. Each begins with `etc/` or has a hidden name."""

_NAMES = (
    (".netrc", "passwords"),
    ("_netrc", "passwords"),
    (".authinfo*", "passwords"),
    (".git-credentials", "git's passwords"),
    (".pgpass", "a database's passwords"),
    (".my.cnf", "a database's passwords"),
    (".pypirc", "a package index's password"),
    (".vault-token", "a token"),
    (".k5login", "who may log in"),
    (".Xauthority", "a display's key"),
    (".env", "settings of a program, often passwords"),
    ("token", "a token"),
    (".token", "a token"),
    ("*.token", "a token"),
    ("credentials", "credentials"),
    ("credentials.json", "credentials"),
    (".credentials*", "credentials"),
    ("krb5cc_*", "a Kerberos ticket"),
    ("*.keytab", "a Kerberos keytab"),
    ("*.p12", "a private key"),
    ("*.pfx", "a private key"),
    ("*.kdbx", "a password safe"),
    (".*_history", "a history of what was typed"),
    ("*_history.sqlite", "a history of what was typed"),
    ("fish_history", "a history of what was typed"),
    (".histfile", "a history of what was typed"),
    (".lesshst", "a history of what was typed"),
    (".viminfo", "a history of what was typed"),
)
"""Patterns of the last part of a path."""

_ANY_NAME = re.compile("|".join(translate(pattern) for pattern, _ in _NAMES))

_KEY = re.compile(
    rb"^-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----\r?\n(?:[\w-]+:.*\r?\n|\r?\n)*[ \t]*[\w+/=]{16}", re.MULTILINE
)
"""A whole key, not a program that knows how one begins: RFC 7468, and headers as RFC 1421 and RFC 9580 have them."""

_CONTENTS = (
    (rb"PRIVATE KEY", ((_KEY, "a private key"),)),
    (
        rb"-(?:(?<=PuTTY-)User-Key-File-|(?<=AGE-)SECRET-KEY-1|(?<=glpat-)|(?<=xox[abprs]-)|(?<=pypi-)AgE)",
        (
            (re.compile(rb"^PuTTY-User-Key-File-\d+: \S", re.MULTILINE), "a private key"),
            (re.compile(rb"^AGE-SECRET-KEY-1[0-9A-Z]{40}", re.MULTILINE), "a private key"),
            (
                re.compile(rb"(?<![\w-])(?:glpat-[\w-]{20}|xox[abprs]-[\w-]{20}|pypi-AgE[\w-]{50})"),
                "a token",
            ),
        ),
    ),
    (
        rb"_(?:(?<=gh[pousr]_)|(?<=github_pat_)|(?<=npm_)|(?<=hf_))",
        ((re.compile(rb"(?<![\w-])(?:gh[pousr]_\w{36}|github_pat_\w{50}|npm_\w{36}|hf_[A-Za-z]{30})"), "a token"),),
    ),
    (rb"A(?:KIA|SIA)", ((re.compile(rb"(?<![\w-])(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])"), "a token"),)),
)
"""A fast expression for what each kind of secret has in its content, and the expressions that decide.

A search for an expression that begins with one certain byte uses memchr(3): 38 us for 27 KiB, and 103 us for one
search for any of the words (measured).
"""

_SEARCHES = tuple((re.compile(mark), expressions) for mark, expressions in _CONTENTS)

_BEGINNINGS = (
    (re.compile(rb"\x05[\x01\x02]\x00\x00"), "a Kerberos keytab"),
    (re.compile(rb"\x05\x04\x00"), "a Kerberos ticket"),
)

_SETTINGS = (
    (re.compile(rb"^[^#\n]*(?:_authToken|_auth|_password)[ \t]*=[ \t]*[^ \t\r\n]", re.MULTILINE), "a token"),
    (
        re.compile(rb"^[^#\n]*\b[a-z][a-z0-9+.-]*://[^/\s:@'\"]+:[^/\s@'\"$]+@", re.MULTILINE),
        "a password in an address",
    ),
)
"""Checked in files with a user's settings. Elsewhere such lines are examples and code."""

_HASHES = (re.compile(rb"^[^:\n]+:[!*]?\$[^:\n]+:", re.MULTILINE), "password hashes")
_SHADOW = ("etc/shadow", "etc/gshadow")


def find_secret(path: str, head: Callable[[], bytes]) -> str:
    """Return which secret the file at `path` may hold; empty if none was found. `path` is relative, without a leading
    slash.

    `head` reads the first HEAD_BYTES of a regular file. It is not called if the path decides.
    """
    name = path.rpartition("/")[2]
    holds_settings = path.startswith("etc/") or "/." in f"/{path}"
    for pattern, what in _PLACES if holds_settings else ():
        if fnmatchcase(f"/{path}" if pattern.startswith("*/") else path, pattern):
            return what
    for pattern, what in _NAMES if _ANY_NAME.match(name) else ():
        if fnmatchcase(name, pattern):
            return what
    return _find_in_content(path, head(), holds_settings=holds_settings)


def _find_in_content(path: str, content: bytes, *, holds_settings: bool) -> str:
    for expression, what in _BEGINNINGS:
        if expression.match(content):
            return what
    for mark, expressions in _SEARCHES:
        if mark.search(content):
            for expression, what in expressions:
                if expression.search(content):
                    return what
    settings = [*_SETTINGS] if holds_settings else []
    if path.rstrip("-") in _SHADOW:
        settings.append(_HASHES)
    return next((what for expression, what in settings if expression.search(content)), "")
