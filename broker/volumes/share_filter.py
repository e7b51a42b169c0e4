"""Select the files of a snapshot that another user may get: one table of rules for home and system.

Left out are keys, tokens, histories, cookies, agents and the state of editors. The rules of `berth profile commit`
(profiles/commit/secrets.py, profiles/commit/filters.py) count, too. The standard library alone: the launcher's children
run this with a user's rights.
"""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING, NamedTuple

from profiles.commit.filters import PathFilter
from profiles.commit.secrets import find_secret

if TYPE_CHECKING:
    from collections.abc import Callable

SPECIAL_FILE = "no file: a pipe, a socket or a device"

_EDITOR = "the state of an editor"
_AGENT = "the state of an assistant, often with its login"
_BROWSER = "a browser's data, with cookies"
_LOGIN = "a login"

SHARING_RULES = (
    (".ssh/", "ssh keys and their like"),
    (".berth/", _LOGIN),
    (".config/berth/", _LOGIN),
    (".cache/", "a cache"),
    (".local/share/Trash/", "deleted files"),
    (".local/share/recently-used.xbel", "a history of what was opened"),
    (".local/state/", "the state of programs, with histories"),
    (".zsh_sessions/", "a history of what was typed"),
    (".ipython/*/history.sqlite*", "a history of what was typed"),
    ("*_history", "a history of what was typed"),
    (".*hist", "a history of what was typed"),
    (".*-history", "a history of what was typed"),
    ("fish_history*", "a history of what was typed"),
    (".zcompdump*", "a cache"),
    (".mozilla/", _BROWSER),
    (".thunderbird/", "mail"),
    ("Maildir/", "mail"),
    (".config/google-chrome*", _BROWSER),
    (".config/chromium*", _BROWSER),
    (".config/BraveSoftware/", _BROWSER),
    (".config/microsoft-edge*", _BROWSER),
    ("Cookies", "cookies"),
    ("cookies", "cookies"),
    ("cookies.txt", "cookies"),
    ("cookies.sqlite*", "cookies"),
    (".wget-hsts", "a history of what was opened"),
    ("jupyter_cookie_secret", "cookies"),
    ("notebook_cookie_secret", "cookies"),
    (".local/share/jupyter/runtime/", "tokens of running servers"),
    ("jupyter_*_config.json", "password hashes"),
    (".vscode/", _EDITOR),
    (".vscode-server*", _EDITOR),
    (".vscode-remote/", _EDITOR),
    (".cursor*", _EDITOR),
    (".windsurf*", _EDITOR),
    (".config/Code/", _EDITOR),
    (".config/Cursor/", _EDITOR),
    (".config/code-server/", _EDITOR),
    (".local/share/code-server/", _EDITOR),
    (".config/JetBrains/", _EDITOR),
    (".local/share/JetBrains/", _EDITOR),
    (".java/.userPrefs/", _EDITOR),
    (".local/share/rstudio/", _EDITOR),
    (".config/rstudio/", _EDITOR),
    (".emacs.d/auto-save-list/", _EDITOR),
    (".vim/undo*/", _EDITOR),
    (".local/share/nvim/shada/", _EDITOR),
    (".zed*", _EDITOR),
    (".claude*", _AGENT),
    (".codex/", _AGENT),
    (".gemini/", _AGENT),
    (".aider*", _AGENT),
    (".continue/", _AGENT),
    (".config/github-copilot/", _AGENT),
    (".gnupg/", "GnuPG's keys"),
    (".password-store/", "a password safe"),
    (".pki/", "a key store"),
    (".local/share/kwalletd/", "a keyring"),
    (".local/share/keyrings/", "a keyring"),
    (".config/op/", "a password safe"),
    (".config/Bitwarden*", "a password safe"),
    (".config/keepassxc/", "a password safe"),
    (".config/sops/", "keys"),
    (".age/", "keys"),
    (".step/", "keys"),
    (".globus/", "a grid's credentials"),
    (".config/rclone/", "a cloud's credentials"),
    (".rclone.conf", "a cloud's credentials"),
    (".s3cfg", "a cloud's credentials"),
    (".boto", "a cloud's credentials"),
    (".mc/config.json*", "a cloud's credentials"),
    (".oci/", "a cloud's credentials"),
    (".kaggle/", "a token"),
    (".huggingface/", "a token"),
    (".config/wandb/", "a token"),
    (".config/gh/", "a token"),
    (".config/glab-cli/", "a token"),
    (".config/hub", "a token"),
    (".config/pip/", "an address of packages, often with a password"),
    (".config/uv/", "an address of packages, often with a password"),
    (".pip/", "an address of packages, often with a password"),
    (".npmrc", "a token"),
    (".yarnrc*", "a token"),
    (".cargo/credentials*", "a token"),
    (".gem/credentials", "a token"),
    (".composer/auth.json", "a token"),
    (".config/composer/auth.json", "a token"),
    (".m2/settings*.xml", "passwords"),
    (".gradle/gradle.properties", "passwords"),
    (".terraform.d/credentials*", "a token"),
    (".docker/", "a registry's credentials"),
    (".config/containers/", "a registry's credentials"),
    (".condarc", "an address of packages, often with a password"),
    (".Renviron", "settings of a program, often passwords"),
    (".env.*", "settings of a program, often passwords"),
    (".envrc", "settings of a program, often passwords"),
    (".htpasswd", "password hashes"),
    (".mylogin.cnf", "a database's password"),
    (".vnc/", "a display's password"),
    (".ICEauthority", "a display's key"),
    (".dbus/", "a display's key"),
    ("id_rsa", "a private key"),
    ("id_ecdsa*", "a private key"),
    ("id_ed25519*", "a private key"),
    ("*.key", "a private key"),
    ("*.ppk", "a private key"),
    ("*.jks", "a key store"),
    ("*.keystore", "a key store"),
    ("*.ovpn", "a private key"),
)
"""Patterns of the last names of a path, as a shell has them, and what is there. With `/` at its end, a pattern is for a
folder, with everything in it; without, for an entry of any kind.
"""


class _Rule(NamedTuple):
    names: tuple[re.Pattern[str], ...]
    """Of the last names of a path, the last one first."""
    is_folder: bool
    what: str


def _parse_rule(pattern: str, what: str) -> _Rule:
    names = pattern.rstrip("/").split("/")
    return _Rule(tuple(re.compile(translate(name)) for name in reversed(names)), pattern.endswith("/"), what)


_RULES = [_parse_rule(pattern, what) for pattern, what in SHARING_RULES]
_LAST_NAME = re.compile("|".join(rule.names[0].pattern for rule in _RULES))
"""Matches the last name of each path for which there may be a rule."""
_SYSTEM = PathFilter()


def _no_head() -> bytes:
    return b""


def folder_left_out(volume: str, path: str) -> str:
    """Return why the folder at the relative `path` is left out with all that is in it; empty if it is not.

    The folders above it are not left out.
    """
    if what := _find_rule(path, is_folder=True):
        return what
    if volume == "system" and (what := _SYSTEM.why_not(path, directory=True, head=None)):
        return what
    return find_secret(f"{path}/x", _no_head)


def file_left_out(volume: str, path: str, head: Callable[[], bytes] | None) -> str:
    """Return why the file at the relative `path`, whose folder is not left out, is left out; empty if it is not.

    `head` reads the beginning of a file; None for a link, and to decide by the path alone.
    """
    if what := _find_rule(path, is_folder=False):
        return what
    if volume == "system":
        return _SYSTEM.why_not(path, directory=False, head=head or _no_head)
    return find_secret(path, head or _no_head)


def _find_rule(path: str, *, is_folder: bool) -> str:
    if not _LAST_NAME.match(path.rpartition("/")[2]):
        return ""
    names = path.split("/")[::-1]
    for rule in _RULES:
        may_match = (is_folder or not rule.is_folder) and len(rule.names) <= len(names)
        if may_match and all(pattern.match(name) for pattern, name in zip(rule.names, names, strict=False)):
            return rule.what
    return ""
