"""Find and read the configuration file, without validation of its content.

It is separate from `broker.config.settings`, because validation would take most of the time of a command, and the
controller has validated the same file.
"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

from broker.errors import InvalidInputError

SITE_CONFIG = Path("/etc/berth/config.yaml")
RUNTIME_DIR = Path("/run/berth")
SOCKET_NAME = "api.sock"
ANSWER_TIMEOUT_S = 10.0
"""Default of `ssh.answer_timeout`: the kernel asks for a connection at 0, 1, 3 and 7 s, and IDEs give up after 15 s."""
MIN_ANSWER_TIMEOUT_S, MAX_ANSWER_TIMEOUT_S = 1.0, 300.0
_LOCATION = frozenset({"mode", "runtime_dir"})
_COMMENT = re.compile(r"(?:^|\s+)#.*|\s+$")
_SETTING = re.compile(r"([a-z_]+):(?:\s+(?:(site|personal|/[A-Za-z0-9/._-]*)|.*))?")
"""A line with a setting that is not part of another; its value if `mode` or `runtime_dir` may have it."""


class Mode(StrEnum):
    SITE = "site"
    PERSONAL = "personal"


def read_config(path: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Read `path`, else `$BERTH_CONFIG`, else the site's file, else personal mode's; return its path and the settings.

    A file with `mode: personal` changes personal mode's defaults; other files change those of site mode. Only the YAML
    syntax is checked. Raises InvalidInputError; an explicitly named file must exist.
    """
    named = path or _named_config()
    if named is not None:
        values = _parse(named)
        personal = values.get("mode") == Mode.PERSONAL.value
        return named, _merge(personal_defaults() if personal else {"mode": Mode.SITE}, values)
    own = xdg_directory("XDG_CONFIG_HOME", ".config") / "berth" / "config.yaml"
    return own, _merge(personal_defaults(), _parse(own) if own.exists() else {})


def site_socket() -> Path | None:
    """Return the controller's socket in site mode; None if only `settings` can tell it."""
    path = _named_config()
    location = _read_location(path) if path is not None else None
    return _site_socket(read_config()[1] if location is None else {"mode": Mode.SITE, **location})


def _named_config() -> Path | None:
    """Return the path of `$BERTH_CONFIG`, else of the site's file; None without these."""
    if named := os.environ.get("BERTH_CONFIG"):
        return Path(named)
    return SITE_CONFIG if SITE_CONFIG.exists() else None


def connect_settings() -> tuple[Path, float] | None:
    """Return the controller's socket and `ssh.answer_timeout` in site mode; None if only `settings` can tell them."""
    _, values = read_config()
    socket, ssh = _site_socket(values), values.get("ssh", {})
    seconds = ssh.get("answer_timeout", ANSWER_TIMEOUT_S) if isinstance(ssh, dict) else None
    if socket is None or not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        return None
    return (socket, float(seconds)) if MIN_ANSWER_TIMEOUT_S <= seconds <= MAX_ANSWER_TIMEOUT_S else None


def _site_socket(values: dict[str, Any]) -> Path | None:
    directory = values.get("runtime_dir", str(RUNTIME_DIR))
    if values["mode"] != Mode.SITE or not isinstance(directory, str) or not directory.startswith("/"):
        return None
    return Path(directory, SOCKET_NAME)


def personal_defaults() -> dict[str, Any]:
    """Return the defaults of personal mode, below the user's XDG directories (XDG Base Directory Specification 0.8)."""
    state = xdg_directory("XDG_STATE_HOME", ".local/state") / "berth"
    data = xdg_directory("XDG_DATA_HOME", ".local/share") / "berth"
    return {
        "mode": Mode.PERSONAL,
        "runtime_dir": _personal_runtime_dir(),
        "state_dir": state,
        "profiles": {"stores": [data / "profiles"]},
        "gateway": {"enabled": False},
    }


def xdg_directory(variable: str, fallback: str) -> Path:
    """Return an XDG directory; the specification demands that a relative value is ignored."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / fallback


def _personal_runtime_dir() -> Path:
    """Return a directory on this machine that is the same for all logins, with or without pam_systemd(8)'s variable."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    for base in (Path(named), Path(f"/run/user/{os.getuid()}")):
        if base.is_absolute() and base.is_dir() and base.stat().st_uid == os.getuid():
            return base / "berth"
    return Path(f"/tmp/berth-{os.getuid()}")  # noqa: S108 - created with mode 0700, and its owner checked before use


def _read_location(path: Path) -> dict[str, str] | None:
    """Return `mode` and `runtime_dir` as far as the file has them, without the module yaml.

    None if yaml might read anything else: then only yaml can tell.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):  # `read_config` reports it
        return None
    location: dict[str, str] = {}
    may_continue = True
    for line in lines:
        content = _COMMENT.sub("", line)
        if not content:
            continue
        if any(content.count(quote) % 2 for quote in "\"'") or _count(content, "[{") != _count(content, "]}"):
            return None  # the value may continue in any later line
        if content[0].isspace():
            if not may_continue:
                return None
            continue
        setting = _SETTING.fullmatch(content)
        if setting is None:
            return None
        name, word = setting.groups()
        may_continue = word is None
        if name in _LOCATION:
            if word is None:
                return None
            location[name] = word
    return location


def _count(text: str, characters: str) -> int:
    return sum(map(text.count, characters))


def _parse(path: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - most commands do not need it, and it takes long to import

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(
            f"cannot read {path}: {error.strerror}", hint="check the path and its permissions"
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # yaml lets numbers and dates raise the latter two
        raise InvalidInputError(f"{path} is not valid YAML: {error}") from error
    if values is not None and not isinstance(values, dict):
        raise InvalidInputError(f"{path}: expected settings as `name: value`")
    return values or {}


def _merge(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in values.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
