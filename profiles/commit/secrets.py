"""Find files that may hold secrets, by their path and by their content. An image must not have such files.

Everybody who can reach its store can read an image. So these rules rather leave out too much: the user who commits a
session sees the list and can correct it. Unchanged files of packages are not checked.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
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
"""Patterns of paths, in which `*` also stands for slashes."""

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

_KEY = re.compile(
    rb"^-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----\r?\n(?:[\w-]+:.*\r?\n|\r?\n)*[ \t]*[\w+/=]{16}", re.MULTILINE
)
"""A whole key, not a program that knows how one begins: RFC 7468, and headers as RFC 1421 and RFC 9580 have them."""

_CONTENTS = (
    (_KEY, "a private key"),
    (re.compile(rb"^PuTTY-User-Key-File-\d+: \S", re.MULTILINE), "a private key"),
    (re.compile(rb"^AGE-SECRET-KEY-1[0-9A-Z]{40}", re.MULTILINE), "a private key"),
    (re.compile(rb"\A\x05[\x01\x02]\x00\x00"), "a Kerberos keytab"),
    (re.compile(rb"\A\x05\x04\x00"), "a Kerberos ticket"),
    (
        re.compile(rb"(?<![\w-])(?:gh[pousr]_\w{36}|github_pat_\w{50}|glpat-[\w-]{20}|npm_\w{36}|hf_[A-Za-z]{30})"),
        "a token",
    ),
    (re.compile(rb"(?<![\w-])(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])|(?<![\w-])xox[abprs]-[\w-]{20}"), "a token"),
    (re.compile(rb"(?<![\w-])pypi-AgE[\w-]{50}"), "a token"),
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
    for pattern, what in _PLACES:
        if fnmatchcase(f"/{path}" if pattern.startswith("*/") else path, pattern):
            return what
    for pattern, what in _NAMES:
        if fnmatchcase(name, pattern):
            return what
    content = head()
    expressions = [*_CONTENTS]
    if path.startswith("etc/") or "/." in f"/{path}":
        expressions += _SETTINGS
    if path.rstrip("-") in _SHADOW:
        expressions.append(_HASHES)
    return next((what for expression, what in expressions if expression.search(content)), "")
