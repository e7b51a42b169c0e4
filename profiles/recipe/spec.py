"""The schema of a profile's YAML, and its reader.

A profile is a recipe: its base and its additions, and the default Slurm options of its sessions.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from profiles.errors import ProfileError
from profiles.recipe.base import Base, parse_base
from profiles.recipe.duration import policy_time
from profiles.recipe.resources import to_slurm_value
from profiles.recipe.yaml_document import YamlDocument, parse_yaml
from profiles.userfile import is_file

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,38}$"
VERSION_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}$"

RESERVED_VARIABLES = re.compile(r"(BERTH|SLURM|APPTAINER|SINGULARITY)_|(HOME|USER|LOGNAME)$")
"""Variables that the session, Slurm or Apptainer set. A profile that set them would break one of the three."""


def _one_line(text: str) -> str:
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise ValueError("must be one line without control characters")
    return text


def _absolute(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise ValueError("must be an absolute path below / without `..`")
    return str(path)


def _bindable(text: str) -> str:
    if set(text) & set(":,\\"):
        raise ValueError("must not contain `:`, `,` or a backslash: Apptainer's --bind cannot take them")
    return text


def _persistent(text: str) -> str:
    """An absolute path or one below `~/`; plain, so that two spellings are two paths, and Apptainer can bind it."""
    parts = text.split("/")
    if parts[0] not in {"", "~"} or len(parts) < 2 or set(parts[1:]) & {"", ".", ".."}:
        raise ValueError("must be an absolute path or one that begins with `~/`, without empty parts, `.` and `..`")
    return text


def _not_kept(text: str, info: ValidationInfo) -> str:
    """Refuse to keep and to renew one thing: a path of `fresh` that is, holds or lies in one of `keep`."""
    for kept in info.data.get("keep", []):
        if kept == text:
            raise ValueError(f"{text} is in `keep` too")
        if PurePosixPath(text).is_relative_to(kept) or PurePosixPath(kept).is_relative_to(text):
            raise ValueError(f"{text} and {kept}, which is in `keep`, lie in each other")
    return text


def _parse_mode(value: object) -> object:
    """`0644` is octal, as in chmod(1); numbers come from image.json, where it is written as one."""
    if isinstance(value, str):
        if not re.fullmatch(r"0?[0-7]{3}", value):
            raise ValueError("must be three octal digits such as 0644 or 755")
        return int(value, 8)
    return value


def _parse_flag(value: object) -> object:
    """Take `true` and `false` as switches of an option without a value, any other text as its value."""
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _variable(name: str) -> str:
    if RESERVED_VARIABLES.match(name):
        raise ValueError(f"{name} is set by the session itself")
    return name


def _parse_continuation(text: str) -> str:
    return text if text in {"always", "never"} else policy_time(text)


def _parse_idle(text: str) -> str:
    return text if text == "never" else policy_time(text)


Line = Annotated[str, AfterValidator(_one_line)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]
AptPackage = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[0-9A-Za-z.+:~-]+)?$")]
PipPackage = Annotated[Line, StringConstraints(pattern=r"^[A-Za-z0-9][^\n]*$", max_length=500)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_variable)]
ResourceValue = Annotated[bool | Line, BeforeValidator(_parse_flag)]
ResourceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
AbsolutePath = Annotated[Line, AfterValidator(_absolute)]
BindPath = Annotated[AbsolutePath, AfterValidator(_bindable)]
PersistentPath = Annotated[Line, AfterValidator(_bindable), AfterValidator(_persistent), Field(max_length=1024)]
Mode = Annotated[int, BeforeValidator(_parse_mode), Field(ge=0, le=0o777)]


class ProfileModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(ProfileModel):
    """A file of the image: its text, or a file to copy, named relative to the profile."""

    destination: AbsolutePath
    content: str | None = None
    source: Path | None = None
    mode: Mode = 0o644

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.content is None) == (self.source is None):
            raise ValueError("needs either `content` or `source`")
        return self


class BindSpec(ProfileModel):
    """A path of the shared file system for sessions; the site decides whether they may mount it."""

    source: BindPath
    destination: BindPath = ""
    readonly: bool = True

    @model_validator(mode="before")
    @classmethod
    def _same_place(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic hands over whatever the file says
        if isinstance(data, dict) and "source" in data:
            return {"destination": data["source"], **data}
        return data


class Service(ProfileModel):
    """A web service of the session: its command, and the socket in the run directory that it listens on."""

    name: Name
    command: Annotated[Line, StringConstraints(min_length=1)]
    socket: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    description: Line = ""


class PersistenceSpec(ProfileModel):
    """The parts of a session that are kept over a stop, and those that come from the profile at each start."""

    home: Literal["keep", "fresh"] = "keep"
    system: Literal["keep", "fresh"] = "keep"
    keep: list[PersistentPath] = []
    fresh: list[Annotated[PersistentPath, AfterValidator(_not_kept)]] = []


class Profile(ProfileModel):
    """One version of a profile, checked. Relative paths are resolved against the file it was read from."""

    name: Name
    version: Version
    description: Line = ""
    base: Annotated[Base, BeforeValidator(parse_base), PlainSerializer(str, return_type=str)]
    apt: list[AptPackage] = []
    pip: list[PipPackage] = []
    files: list[File] = []
    post: str = ""
    environment: dict[Variable, Line] = {}
    resources: dict[ResourceName, ResourceValue] = {}
    persistence: PersistenceSpec = PersistenceSpec()
    idle: Annotated[str, AfterValidator(_parse_idle)] | None = None
    continuation: Annotated[str, AfterValidator(_parse_continuation)] | None = None
    binds: list[BindSpec] = []
    submission_directory: bool = True
    services: list[Service] = []

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what, names in (
            ("file", [file.destination for file in self.files]),
            ("bind", [bind.destination for bind in self.binds]),
            ("service", [service.name for service in self.services]),
        ):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"{what} {min(twice)} is given twice")
        return self

    def resources_as_options(self) -> list[str]:
        """Write the default resources as sbatch options such as `--gres=gpu:intel:1`, in the file's order."""
        options = []
        for name, value in self.resources.items():
            if value is True:
                options.append(f"--{name}")
            elif value is not False:
                options.append(f"--{name}={value}")
        return options


_PLAIN_MESSAGES = {
    "model_type": "must be a map of keys and values",
    "dict_type": "must be a map of keys and values",
    "list_type": "must be a list",
    "string_type": "must be text",
    "literal_error": "must be `keep` or `fresh`",
}
"""Messages of pydantic, which uses Python's terms, in YAML's terms."""

_NESTED_MODELS: dict[str, type[BaseModel]] = {
    "files": File,
    "persistence": PersistenceSpec,
    "binds": BindSpec,
    "services": Service,
}


def load_profile(path: Path) -> Profile:
    """Read and check a profile. Raises ProfileError with file and line of the first problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ProfileError(f"cannot be read: {error.strerror}", file=path) from error
    except UnicodeDecodeError as error:
        raise ProfileError("is not UTF-8 text", file=path) from error
    return parse_profile(text, path)


def parse_profile(text: str, path: Path) -> Profile:
    """Check a profile's text. `path` is its file, for messages and for relative paths."""
    document = parse_yaml(text, path)
    try:
        profile = Profile.model_validate(document.data)
    except ValidationError as error:
        raise _first_problem(error, document, path) from error
    profile = profile.model_copy(update={"resources": _parse_resources(profile, document, path)})
    return _resolve_paths(profile, path.resolve().parent, document, path)


def _parse_resources(profile: Profile, document: YamlDocument, path: Path) -> dict[str, bool | str]:
    """Return the resources with times and sizes in Slurm's forms."""
    parsed: dict[str, bool | str] = {}
    for name, value in profile.resources.items():
        try:
            parsed[name] = to_slurm_value(name, value) if isinstance(value, str) else value
        except ValueError as error:
            line = document.line(("resources", name))
            raise ProfileError(f"`resources.{name}`: {error}", file=path, line=line) from error
    return parsed


def _resolve_paths(profile: Profile, folder: Path, document: YamlDocument, path: Path) -> Profile:
    files = []
    for index, file in enumerate(profile.files):
        if file.source is not None:
            source = folder / file.source
            if not is_file(source):
                line = document.line(("files", index, "source"))
                raise ProfileError(
                    f"no such file: {file.source}",
                    file=path,
                    line=line,
                    hint="`source` is relative to the profile",
                )
            file = file.model_copy(update={"source": source})  # noqa: PLW2901 - the same file, resolved
        files.append(file)
    return profile.model_copy(update={"files": files, "base": profile.base.resolved(folder)})


def _first_problem(error: ValidationError, document: YamlDocument, path: Path) -> ProfileError:
    """Return the problem that is first in the file, in the terms of this schema."""
    details = min(error.errors(include_url=False), key=lambda each: document.line(each["loc"]))
    place = details["loc"]
    dotted = ".".join(str(part) for part in place if part != "[key]")
    line = document.line(place)
    if details["type"] == "extra_forbidden":
        return _unknown_key(place, line, path)
    if details["type"] == "missing":
        return ProfileError(f"`{dotted}` is missing", file=path, line=line)
    said = _PLAIN_MESSAGES.get(details["type"]) or details["msg"].removeprefix("Value error, ")
    return ProfileError(f"`{dotted}`: {said}" if dotted else said, file=path, line=line)


def _unknown_key(place: tuple[str | int, ...], line: int, path: Path) -> ProfileError:
    model = _NESTED_MODELS.get(str(place[0]), Profile) if len(place) > 1 else Profile
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    return ProfileError(f"unknown key `{place[-1]}`", file=path, line=line, hint=hint)
