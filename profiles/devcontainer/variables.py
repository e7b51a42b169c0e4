"""The variables of devcontainer.json, such as `${localEnv:HOME}` and `${localWorkspaceFolder}`."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from profiles.devcontainer.jsonc import JsonData

MAX_EXPANDED_CHARS = 1 << 20
"""Limit for all texts of a file together, after their variables have been replaced."""

_VARIABLE = re.compile(r"\$\{([A-Za-z]+)(?::([^:}]*)(?::([^}]*))?)?\}")
_CONTAINER = re.compile(r"\$\{containerEnv:([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")
_DIGITS = "0123456789abcdefghijklmnopqrstuv"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The values of the variables: where the repository is here and in the session, and the environment here."""

    workspace: str
    """The repository on this machine."""
    inside: str
    """The repository in the session."""
    config: str
    """The path of devcontainer.json."""
    environment: Mapping[str, str]

    @property
    def container_id(self) -> str:
        """A name of 52 letters and digits that is the same for each build of this file in this place."""
        labels = {"devcontainer.config_file": self.config, "devcontainer.local_folder": self.workspace}
        text = json.dumps(labels, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        number = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
        return "".join(_DIGITS[number >> shift & 31] for shift in range(255, -1, -5))


def substitute(data: JsonData, around: Surroundings) -> JsonData:
    """Return the data with the variables in its texts replaced. Raises ValueError if it becomes too large.

    `${containerEnv:…}` stays: only the session knows it. So do names that the specification does not have.
    """
    return _Substitution(around).replace(data)


class _Substitution:
    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.left = MAX_EXPANDED_CHARS
        self.values = {
            "localWorkspaceFolder": around.workspace,
            "containerWorkspaceFolder": around.inside,
            "localWorkspaceFolderBasename": posixpath.basename(around.workspace),
            "containerWorkspaceFolderBasename": posixpath.basename(around.inside),
            "devcontainerId": around.container_id,
        }

    def replace(self, data: JsonData) -> JsonData:
        if isinstance(data, str):
            text = _VARIABLE.sub(self._value, data)
            self.left -= len(text)
            if self.left < 0:
                raise ValueError(f"the texts are longer than {MAX_EXPANDED_CHARS} characters with their variables")
            return text
        if isinstance(data, list):
            return [self.replace(each) for each in data]
        if isinstance(data, dict):
            return {key: self.replace(each) for key, each in data.items()}
        return data

    def _value(self, found: re.Match[str]) -> str:
        name, argument, default = found[1], found[2], found[3]
        if name in {"localEnv", "env"} and argument:
            return self.around.environment.get(argument) or default or ""
        return self.values.get(name, found[0]) if argument is None else found[0]


def shell_text(text: str) -> str:
    """Quote a text as the right side of an assignment of sh(1), with `${containerEnv:NAME}` as the shell's variable."""
    parts = []
    at = 0
    for found in _CONTAINER.finditer(text):
        parts += [text[at : found.start()] and shlex.quote(text[at : found.start()])]
        parts += [f"${{{found[1]}:-{shlex.quote(found[2])}}}" if found[2] else f"${{{found[1]}-}}"]
        at = found.end()
    parts += [text[at:] and shlex.quote(text[at:])]
    return "".join(parts)
