"""The user's logins to registries, from the files that podman, skopeo, buildah and docker write.

Only the entries of `auths` count. Programs that such a file names (`credHelpers`, `credsStore`) are not run: a file
must not decide which programs Berth runs.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.errors import RegistryRefusedError
from profiles.userfile import open_regular, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_LOGIN_FILE_BYTES = 2**20
MAX_SECRET_CHARACTERS = 16384
"""Limit for passwords and tokens: some registries give tokens of several KiB as passwords."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and a password; the file that has them is for messages."""

    user: str
    password: str
    file: Path

    def __repr__(self) -> str:
        return f"Login({self.user!r}, from {str(self.file)!r})"

    @property
    def basic(self) -> str:
        """The value of the header `Authorization`."""
        return f"Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


def login_files() -> list[Path]:
    """Return the files in the order of their precedence, as podman and skopeo have it."""
    env = os.environ
    named = [Path(env["REGISTRY_AUTH_FILE"])] if env.get("REGISTRY_AUTH_FILE") else []
    runtime = [Path(env["XDG_RUNTIME_DIR"]) / "containers/auth.json"] if env.get("XDG_RUNTIME_DIR") else []
    home = Path(env.get("HOME") or "/nonexistent")
    docker = Path(env["DOCKER_CONFIG"]) if env.get("DOCKER_CONFIG") else home / ".docker"
    return [*named, *runtime, home / ".config/containers/auth.json", docker / "config.json"]


def find_login(registry: str, repository: str, files: Sequence[Path]) -> Login | None:
    """Return the login of the first file that has one for the registry; None if there is none.

    Raises RegistryRefusedError for a file with such a login that is damaged or that other users can read.
    """
    for file in files:
        entries = _read_entries(file)
        for key in _keys(registry, repository):
            if isinstance(entry := entries.get(key), dict) and entry:
                _require_private(file)
                return _login(entry, file, key)
    return None


def names_helper(registry: str, files: Sequence[Path]) -> bool:
    """Whether a file leaves this registry to a program that is not run here."""
    for file in files:
        data = _read_object(file)
        helpers = data.get("credHelpers")
        if data.get("credsStore") or (isinstance(helpers, dict) and registry in helpers):
            return True
    return False


def _keys(registry: str, repository: str) -> Iterator[str]:
    """Yield the keys that an entry may have: a namespace of the registry first, as containers-auth.json(5) says."""
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join([registry, *parts[:count]])
    yield registry
    for scheme in ("https://", "http://"):
        for path in ("", "/", "/v1/", "/v2/"):
            yield f"{scheme}{registry}{path}"


def _read_entries(file: Path) -> dict[str, Any]:
    entries = _read_object(file).get("auths")
    return entries if isinstance(entries, dict) else {}


def _read_object(file: Path) -> dict[str, Any]:
    """Return the content of a file; an empty object if it is not there. Raises RegistryRefusedError."""
    try:
        data = json.loads(read_bytes(file, MAX_LOGIN_FILE_BYTES, follow=True))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _unfit(file, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _unfit(file, "is no valid JSON") from error
    return data if isinstance(data, dict) else {}


def _require_private(file: Path) -> None:
    with open_regular(file, follow=True) as opened:
        if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
            raise RegistryRefusedError(
                f"other users can read the logins in {file}", hint=f"`chmod 600 {file}`, and change the password"
            )


def _login(entry: dict[str, Any], file: Path, key: str) -> Login:
    auth = entry.get("auth")
    if not isinstance(auth, str) or not auth:
        raise _unfit(
            file, f"has a login for {key} in a form that Berth does not use", "it uses a user name and password"
        )
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except ValueError as error:
        raise _unfit(file, f"has a damaged login for {key}") from error
    if not colon or not user or not f"{user}{password}".isprintable() or len(password) > MAX_SECRET_CHARACTERS:
        raise _unfit(file, f"has a damaged login for {key}")
    return Login(user, password, file)


def _unfit(file: Path, why: str, hint: str = "") -> RegistryRefusedError:
    return RegistryRefusedError(f"the file with logins {file} {why}", hint=hint or "log in again, or remove the file")
