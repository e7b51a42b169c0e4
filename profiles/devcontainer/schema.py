"""The schema of devcontainer.json: the keys that Berth uses. All others are in `ignored.py`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from profiles.devcontainer.feature_metadata import LOOSE, FeatureOptions
from profiles.devcontainer.lifecycle import Command
from profiles.devcontainer.mounts import MountField
from profiles.recipe.fields import one_line

MAX_FEATURES = 64
MAX_PORTS = 24
"""As many as a session may have services."""

_SIZE = re.compile(r"([1-9][0-9]{0,8})(tb|gb|mb|kb)", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _variables(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:60]!r} is not the name of a variable")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"the value of {name} contains a NUL character")
    return values


def _size(text: str) -> str:
    if not _SIZE.fullmatch(text):
        raise ValueError("must be a number with `tb`, `gb`, `mb` or `kb`, such as `8gb`")
    return text


def _plain_path(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("must be a path of one line")
    return text


def _check_absolute(text: str) -> str:
    if not text.startswith("/") or ".." in text.split("/") or not text.isprintable():
        raise ValueError("must be an absolute path without `..`")
    return text.rstrip("/") or "/"


PlainPath = Annotated[str, Field(max_length=1024), AfterValidator(_plain_path)]
Text = Annotated[str, Field(max_length=1024), AfterValidator(one_line)]
Size = Annotated[str, AfterValidator(_size)]
Variables = Annotated[dict[str, str], Field(max_length=256), AfterValidator(_variables)]
RemoteVariables = Annotated[dict[str, str | None], Field(max_length=256), AfterValidator(_variables)]
Extension = Annotated[str, Field(pattern=r"^-?[A-Za-z0-9][A-Za-z0-9._-]{0,199}(@[A-Za-z0-9.+-]{1,64})?$")]


class BuildSection(BaseModel):
    """A Dockerfile, relative to devcontainer.json."""

    model_config = LOOSE

    dockerfile: PlainPath
    context: PlainPath = "."
    args: Variables = {}
    target: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None = None


class GpuDetails(BaseModel):
    model_config = LOOSE

    cores: Annotated[int, Field(ge=1)] | None = None
    memory: Size | None = None


class HostRequirements(BaseModel):
    """The least that a session's job asks for."""

    model_config = LOOSE

    cpus: Annotated[int, Field(ge=1, le=65_536)] | None = None
    memory: Size | None = None
    storage: Size | None = None
    gpu: bool | Literal["optional"] | GpuDetails = False


class PortAttributes(BaseModel):
    model_config = LOOSE

    label: Text = ""


class VsCode(BaseModel):
    model_config = LOOSE

    extensions: Annotated[list[Extension], Field(max_length=256)] = []


class BerthSection(BaseModel):
    """The keys for Berth alone, under `customizations.berth`."""

    model_config = {**LOOSE, "extra": "forbid"}

    base: Text = ""
    """The base of a recipe, in place of `image` or `build`."""
    resources: dict[str, str | bool | int] = {}
    """Options of sbatch, which override those of `hostRequirements`."""


class Customizations(BaseModel):
    model_config = LOOSE

    vscode: VsCode = VsCode()
    berth: BerthSection = BerthSection()


class CommonSettings(BaseModel):
    """The keys that both a devcontainer.json and the label of an image may have."""

    model_config = LOOSE

    container_env: Annotated[Variables, Field(alias="containerEnv")] = {}
    remote_env: Annotated[RemoteVariables, Field(alias="remoteEnv")] = {}
    mounts: Annotated[list[MountField], Field(max_length=64)] = []
    forward_ports: Annotated[list[int | str], Field(alias="forwardPorts", max_length=MAX_PORTS)] = []
    ports_attributes: Annotated[dict[str, PortAttributes], Field(alias="portsAttributes")] = {}
    onCreateCommand: Command | None = None  # noqa: N815 - the names of lifecycle.LIFECYCLE_KEYS
    updateContentCommand: Command | None = None  # noqa: N815 - as above
    postCreateCommand: Command | None = None  # noqa: N815 - as above
    postStartCommand: Command | None = None  # noqa: N815 - as above
    postAttachCommand: Command | None = None  # noqa: N815 - as above
    host: Annotated[HostRequirements, Field(alias="hostRequirements")] = HostRequirements()
    customizations: Customizations = Customizations()


class DevContainer(CommonSettings):
    """A devcontainer.json, checked, with its variables replaced."""

    name: Text = ""
    image: Text | None = None
    build: BuildSection | None = None
    features: Annotated[dict[str, FeatureOptions], Field(max_length=MAX_FEATURES)] = {}
    install_order: Annotated[list[str], Field(alias="overrideFeatureInstallOrder", max_length=MAX_FEATURES)] = []
    workspace_mount: Annotated[MountField | None, Field(alias="workspaceMount")] = None
    workspace_folder: Annotated[str, AfterValidator(_check_absolute)] | None = Field(None, alias="workspaceFolder")

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic hands over whatever the file says
        """Take `dockerFile` and `context`, which older files have outside `build`."""
        if not isinstance(data, dict) or "dockerFile" not in data:
            return data
        build = data.get("build", {})
        older = {"dockerfile": data["dockerFile"], **({"context": data["context"]} if "context" in data else {})}
        return {**data, "build": {**older, **build}} if isinstance(build, dict) else data

    @model_validator(mode="after")
    def _one_origin(self) -> DevContainer:
        if self.customizations.berth.base:
            return self
        if (self.image is None) == (self.build is None):
            raise ValueError("needs either `image` or `build.dockerfile`")
        return self


def size_mebibytes(text: str) -> int:
    """Return a checked size in MiB, rounded up. Its units are powers of 1024, as in Docker."""
    found = _SIZE.fullmatch(text)
    assert found is not None  # `Size` has checked it
    kibibytes: int = int(found[1]) << 10 * ("kb", "mb", "gb", "tb").index(found[2].lower())
    return -(-kibibytes // 1024)
