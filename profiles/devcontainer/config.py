"""Find and read the devcontainer.json of a repository."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from profiles.devcontainer.ignored import REFUSED_KEYS, Finding, ignored_keys, local_variables
from profiles.devcontainer.json_problems import json_problems
from profiles.devcontainer.jsonc import JsonDocument, read_jsonc
from profiles.devcontainer.schema import DevContainer
from profiles.devcontainer.variables import Surroundings, substitute
from profiles.errors import NoSuchFileError, ProfileError
from profiles.recipe.problems import problems_error
from profiles.userfile import is_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from profiles.devcontainer.jsonc import JsonData

FOLDER = ".devcontainer"
CONFIG_FILE = "devcontainer.json"
MAX_CONFIGS = 100


@dataclass(frozen=True, slots=True)
class DevConfig:
    """A devcontainer.json that was read, the folder of its repository, and the findings for its report."""

    file: Path
    workspace: Path
    inside: str
    """The repository's path in the session."""
    dev: DevContainer
    findings: tuple[Finding, ...]
    """The keys that are ignored, and the variables of the user's environment that get into the image."""

    @property
    def folder(self) -> Path:
        """The folder of devcontainer.json, from which its paths are taken."""
        return self.file.parent


def find_dev_config(place: Path, chosen: str | None = None) -> Path:
    """Return the devcontainer.json of a repository, or `place` itself if it is a file.

    `chosen` is the one to take of several: a path in the repository, or the name of a folder in `.devcontainer`. Raises
    NoSuchFileError, with the ones that there are.
    """
    if is_file(place):
        return place.resolve()
    if chosen is not None:
        for path in (place / chosen, place / FOLDER / chosen / CONFIG_FILE):
            if is_file(path):
                return path.resolve()
        raise NoSuchFileError(f"{place} has no {chosen}", hint=_hint(place))
    for path in (place / FOLDER / CONFIG_FILE, place / f".{CONFIG_FILE}"):
        if is_file(path):
            return path.resolve()
    several = _several(place)
    if len(several) == 1:
        return several[0].resolve()
    if several:
        raise NoSuchFileError(f"{place} has {len(several)} files devcontainer.json", hint=_hint(place))
    raise NoSuchFileError(
        f"{place} has no devcontainer.json", hint=f"it belongs into {FOLDER}/{CONFIG_FILE} of the repository"
    )


def workspace_of(file: Path) -> Path:
    """Return the repository of a devcontainer.json."""
    for parent in file.parents:
        if parent.name == FOLDER:
            return parent.parent
    return file.parent


def read_dev_config(file: Path, environment: Mapping[str, str] | None = None, inside: str = "") -> DevConfig:
    """Read and check a devcontainer.json. `inside` is the repository's path in the session, unless the file says it.

    `environment` has the values of `localEnv`, by default this process's. Raises ProfileError with every fault.
    """
    document = read_jsonc(file)
    if not isinstance(document.data, dict):
        raise ProfileError("must be an object: text between { and }", file=file, line=1)
    for key, why in REFUSED_KEYS.items():
        if key in document.data:
            line = document.line((key,))
            raise ProfileError(f"`{key}` is not supported: {why}", file=file, line=line, hint="use `image` or `build`")
    workspace = workspace_of(file)
    stated = document.data.get("workspaceFolder")
    inside = stated if isinstance(stated, str) and "$" not in stated else inside or f"/workspaces/{workspace.name}"
    around = Surroundings(str(workspace), inside, str(file), os.environ if environment is None else environment)
    try:
        data = substitute(document.data, around)
    except ValueError as error:
        raise ProfileError(str(error), file=file) from error
    assert isinstance(data, dict)  # as the document's
    dev = _validate(data, document, file)
    findings = (*local_variables(document.data), *ignored_keys(data, _known_keys()))
    return DevConfig(file, workspace, dev.workspace_folder or inside, dev, findings)


def _validate(data: dict[str, JsonData], document: JsonDocument, file: Path) -> DevContainer:
    try:
        return DevContainer.model_validate(data)
    except ValidationError as error:
        raise problems_error(json_problems(error, document, DevContainer), file) from error


def _known_keys() -> set[str]:
    return {field.alias or name for name, field in DevContainer.model_fields.items()}


def _several(place: Path) -> list[Path]:
    return sorted((place / FOLDER).glob(f"*/{CONFIG_FILE}"))[:MAX_CONFIGS]


def _hint(place: Path) -> str:
    names = [path.parent.name for path in _several(place)]
    return f"choose one with --config: {', '.join(names)}" if names else f"it belongs into {FOLDER}/{CONFIG_FILE}"
