"""The schema of a profile's YAML, and its reader.

A profile is a recipe: its base and its additions, and the default Slurm options of its sessions.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from profiles.errors import ProfileError
from profiles.recipe.base import Base, BaseKind, parse_base
from profiles.recipe.check import CHECK_PATTERN_MESSAGES, CheckList, ProfileCheck, asks_for_gpu
from profiles.recipe.duration import policy_time
from profiles.recipe.fields import STRICT, Line, refuse_duplicates
from profiles.recipe.problems import Problem, problems_error
from profiles.recipe.resources import OPTION_PATTERN, OptionCheck, any_option, resource_problems, slurm_resources
from profiles.recipe.schema_problems import schema_problems
from profiles.recipe.service import SERVICE_PATTERN_MESSAGES, Service, ServiceList
from profiles.recipe.yaml_document import YamlDocument, parse_yaml
from profiles.userfile import is_file

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,38}$"
CHANNEL_WORDS = frozenset({"stable", "candidate", "previous"})
"""Words that mean a version of a profile, as in profiles.image.channels_file."""

VERSION_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}$"
APT_PATTERN = r"^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[0-9A-Za-z.+:~-]+)?$"
PIP_PATTERN = r"^[A-Za-z0-9][^\n]*$"
FILE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"

RESERVED_VARIABLES = re.compile(r"(BERTH|SLURM|APPTAINER|SINGULARITY)_|(HOME|USER|LOGNAME)$")
"""Variables that the session, Slurm or Apptainer set. A profile that set them would break one of the three."""


def _check_absolute(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise ValueError("must be an absolute path below / without `..`")
    return str(path)


def _check_bindable(text: str) -> str:
    if set(text) & set(":,\\"):
        raise ValueError("must not contain `:`, `,` or a backslash: Apptainer's --bind cannot take them")
    return text


def _check_persistent(text: str) -> str:
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


def _check_variable(name: str) -> str:
    if RESERVED_VARIABLES.match(name):
        raise ValueError(f"{name} is set by the session itself")
    return name


def _parse_continuation(text: str) -> str:
    return text if text in {"always", "never"} else policy_time(text)


def _parse_idle(text: str) -> str:
    return text if text == "never" else policy_time(text)


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]
AptPackage = Annotated[str, StringConstraints(pattern=APT_PATTERN)]
PipPackage = Annotated[Line, StringConstraints(pattern=PIP_PATTERN, max_length=500)]
Variable = Annotated[str, StringConstraints(pattern=VARIABLE_PATTERN), AfterValidator(_check_variable)]
ResourceValue = Annotated[bool | Line, BeforeValidator(_parse_flag)]
ResourceName = Annotated[str, StringConstraints(pattern=OPTION_PATTERN)]
AbsolutePath = Annotated[Line, AfterValidator(_check_absolute)]
BindPath = Annotated[AbsolutePath, AfterValidator(_check_bindable)]
PersistentPath = Annotated[
    Line, AfterValidator(_check_bindable), AfterValidator(_check_persistent), Field(max_length=1024)
]
FileId = Annotated[str, StringConstraints(pattern=FILE_ID_PATTERN)]
Mode = Annotated[int, BeforeValidator(_parse_mode), Field(ge=0, le=0o777)]


class ProfileModel(BaseModel):
    model_config = STRICT


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
    build_args: Annotated[dict[Variable, Line], Field(max_length=64)] = {}
    build_secrets: Annotated[dict[FileId, Path], Field(max_length=64)] = {}
    apt: list[AptPackage] = []
    pip: list[PipPackage] = []
    files: Annotated[list[File], AfterValidator(refuse_duplicates("destination"))] = []
    post: str = ""
    environment: dict[Variable, Line] = {}
    resources: dict[ResourceName, ResourceValue] = {}
    persistence: PersistenceSpec = PersistenceSpec()
    idle: Annotated[str, AfterValidator(_parse_idle)] | None = None
    continuation: Annotated[str, AfterValidator(_parse_continuation)] | None = None
    binds: Annotated[list[BindSpec], AfterValidator(refuse_duplicates("destination"))] = []
    submission_directory: bool = True
    services: ServiceList = []
    checks: CheckList = []

    @model_validator(mode="after")
    def _gpu_for_checks(self) -> Self:
        if any(check.gpu for check in self.checks) and not asks_for_gpu(self.resources):
            raise ValueError("a check has `gpu: true`, and `resources` asks for no GPU")
        return self

    @model_validator(mode="after")
    def _arguments_of_dockerfile(self) -> Self:
        if (self.build_args or self.build_secrets) and self.base.kind is not BaseKind.DOCKERFILE:
            raise ValueError("`build_args` and `build_secrets` need a `dockerfile:` base")
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


_PATTERN_MESSAGES = {
    **CHECK_PATTERN_MESSAGES,
    **SERVICE_PATTERN_MESSAGES,
    NAME_PATTERN: "must be a lower-case letter, then at most 38 lower-case letters, digits and `-`",
    VERSION_PATTERN: "must begin with a letter or digit, then at most 63 letters, digits, `.`, `+`, `~` and `-`",
    APT_PATTERN: "must be the name of a Debian package, such as `git`, or with a version, such as `git=1:2.47.3-1`",
    PIP_PATTERN: "must be a Python package in pip's form, such as `numpy==2.3.4`",
    VARIABLE_PATTERN: "must be the name of a variable: letters, digits and `_`, without a digit at the beginning",
    FILE_ID_PATTERN: "must be a name of at most 64 letters, digits, `.`, `_` and `-`",
    OPTION_PATTERN: "must be the long name of an option of sbatch, without its hyphens, such as `gres`",
}
"""The meaning of each pattern in words."""

_NESTED_MODELS: dict[str, type[BaseModel]] = {
    "files": File,
    "persistence": PersistenceSpec,
    "binds": BindSpec,
    "services": Service,
    "checks": ProfileCheck,
}


def load_profile(path: Path, check_option: OptionCheck = any_option) -> Profile:
    """Read and check a profile. Raises ProfileError with file and line of every problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ProfileError(f"cannot be read: {error.strerror}", file=path) from error
    except UnicodeDecodeError as error:
        raise ProfileError("is not UTF-8 text", file=path) from error
    return parse_profile(text, path, check_option)


def parse_profile(
    text: str, path: Path, check_option: OptionCheck = any_option, *, need_sources: bool = True
) -> Profile:
    """Check a profile's text; ProfileError has all its problems, or that of the first text that is not YAML.

    `path` is its file, for messages and for relative paths. `check_option` checks the options in `resources`. Without
    `need_sources` the files that it names as `source` may be missing: it is not to be built here.
    """
    document = parse_yaml(text, path)
    folder = path.resolve().parent
    problems = [
        *document.duplicates,
        *resource_problems(document, check_option),
        *(_source_problems(document, folder) if need_sources else ()),
        *_version_problems(document),
    ]
    try:
        profile = Profile.model_validate(document.data)
    except ValidationError as error:
        wrong = schema_problems(error, document, Profile, _NESTED_MODELS, _PATTERN_MESSAGES)
        raise problems_error([*problems, *wrong], path) from error
    if problems:
        raise problems_error(problems, path)
    return profile.model_copy(
        update={
            "resources": slurm_resources(profile.resources),
            "files": [_resolve_file(file, folder) for file in profile.files],
            "base": profile.base.resolve(folder),
            "build_secrets": {name: folder / path for name, path in profile.build_secrets.items()},
        }
    )


def _resolve_file(file: File, folder: Path) -> File:
    return file if file.source is None else file.model_copy(update={"source": folder / file.source})


def _version_problems(document: YamlDocument) -> Iterator[Problem]:
    """Refuse the name of a channel as a version. Old stores may have one, so the model allows it."""
    version = document.data.get("version") if isinstance(document.data, dict) else None
    if isinstance(version, str) and version in CHANNEL_WORDS:
        line = document.line(("version",))
        yield Problem(line, f"no version can be called {version}, which is a channel", "use a number")


def _source_problems(document: YamlDocument, folder: Path) -> Iterator[Problem]:
    """Find the files that the profile names and that do not exist."""
    data = document.data if isinstance(document.data, dict) else {}
    secrets = data.get("build_secrets")
    for name, path in secrets.items() if isinstance(secrets, dict) else ():
        if isinstance(path, str) and not is_file(folder / path):
            yield Problem(
                document.line(("build_secrets", name)), f"no such file: {path}", "it is relative to the profile"
            )
    files = data.get("files")
    for index, file in enumerate(files if isinstance(files, list) else []):
        source = file.get("source") if isinstance(file, dict) else None
        if isinstance(source, str) and not is_file(folder / source):
            line = document.line(("files", index, "source"))
            yield Problem(line, f"no such file: {source}", "`source` is relative to the profile")
