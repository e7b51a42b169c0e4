"""devcontainer-feature.json: what a feature is, which options it takes, and what it depends on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from profiles.devcontainer.json_problems import json_problems
from profiles.devcontainer.jsonc import read_jsonc
from profiles.devcontainer.lifecycle import LIFECYCLE_KEYS, Command
from profiles.devcontainer.mounts import MountField
from profiles.recipe.fields import one_line
from profiles.recipe.problems import problems_error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FEATURE_FILE = "devcontainer-feature.json"
INSTALL_SCRIPT = "install.sh"
MAX_OPTIONS = 128
LOOSE = ConfigDict(extra="ignore", frozen=True, strict=True, populate_by_name=True)
"""The configuration of models of JSON that others define: unknown keys are reported elsewhere."""

FeatureOptions = str | bool | dict[str, str | bool]
"""The value of a feature in devcontainer.json: its options, or one text or switch for the option `version`."""


class FeatureOption(BaseModel):
    """An option of a feature, with its default."""

    model_config = LOOSE

    type: Literal["string", "boolean"] = "string"
    default: str | bool = ""
    enum: list[str] = []


class FeatureMetadata(BaseModel):
    """The checked part of a feature's devcontainer-feature.json."""

    model_config = LOOSE

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    version: Annotated[str, Field(max_length=64)] = ""
    options: Annotated[dict[str, FeatureOption], Field(max_length=MAX_OPTIONS)] = {}
    container_env: Annotated[dict[str, str], Field(alias="containerEnv")] = {}
    depends_on: Annotated[dict[str, FeatureOptions], Field(alias="dependsOn")] = {}
    installs_after: Annotated[list[str], Field(alias="installsAfter")] = []
    legacy_ids: Annotated[list[str], Field(alias="legacyIds")] = []
    deprecated: bool = False
    mounts: list[MountField] = []
    customizations: dict[str, Any] = {}
    lifecycle: dict[str, Command] = {}
    """The commands that the feature runs in a session, by their keys."""
    demands: dict[str, Any] = {}
    """The requests of the feature that no session can meet, by their keys."""


DEMANDS = ("privileged", "init", "capAdd", "securityOpt", "entrypoint")


def read_feature(folder: Path) -> FeatureMetadata:
    """Read and check the feature in `folder`. Raises ProfileError with every fault and its line."""
    file = folder / FEATURE_FILE
    document = read_jsonc(file)
    data = document.data
    if isinstance(data, dict):
        hooks = {key: data[key] for key in LIFECYCLE_KEYS if key in data}
        demands = {key: data[key] for key in DEMANDS if data.get(key)}
        data = {**data, "lifecycle": hooks, "demands": demands}
    try:
        return FeatureMetadata.model_validate(data)
    except ValidationError as error:
        raise problems_error(json_problems(error, document, FeatureMetadata), file) from error


def chosen_options(given: FeatureOptions, metadata: FeatureMetadata) -> dict[str, str]:
    """Return the values of all options as text, by name. Raises ValueError for one that the feature does not take."""
    own = user_options(given)
    chosen = {name: _as_text(option.default) for name, option in metadata.options.items()}
    for name, value in own.items():
        option = metadata.options.get(name)
        text = one_line(_as_text(value))
        if option is not None and option.enum and text not in option.enum:
            raise ValueError(f"the option `{name}` must be one of {', '.join(option.enum[:20])}, not {text[:60]!r}")
        if option is not None and option.type == "boolean" and text not in {"true", "false"}:
            raise ValueError(f"the option `{name}` must be true or false, not {text[:60]!r}")
        chosen[name] = text
    return chosen


def user_options(given: FeatureOptions) -> dict[str, str | bool]:
    """Return the options that a user has given."""
    return given if isinstance(given, dict) else {"version": given}


def option_variables(options: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of options: their names in capitals, with `_` for what no variable may have."""
    return {
        re.sub(r"^[\d_]+", "_", re.sub(r"\W", "_", name, flags=re.ASCII)).upper(): text
        for name, text in options.items()
    }


def _as_text(value: str | bool) -> str:
    return value if isinstance(value, str) else str(value).lower()
