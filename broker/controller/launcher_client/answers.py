"""Types of the launcher's answers. No part of an answer is stored, logged or counted before it is validated.

A child process of the launcher runs as the user and reads the user's files, so the user controls its answer. It may
have a key of megabytes, a number too large for a column, or invalid text. Each type has limits; LauncherError `files`
names the part that does not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import InvalidInputError
from broker.names import IDENTIFIER, LABEL_PATTERN
from broker.schema.base import Name, Version
from broker.schema.environments import BatchJob, EnvironmentView, JobKey
from broker.schema.sessions import Volumes
from broker.schema.volumes import SnapshotView
from broker.ssh.keys import PublicKey
from profiles.image.channels_file import MAX_CHANNELS_BYTES
from profiles.image.signature_file import MAX_SIGNATURE_BYTES
from profiles.image.store_reader import MAX_ENTRIES, MAX_OWN_DESCRIPTION_BYTES, MAX_PACKAGES_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = frozenset(
    {"invalid", "refused", "unclear", "missing", "busy", "ended", "space", "conflict", "files", "crashed", "timed-out"}
    | {"host-key"}  # session_verbs.submit
)
"""The kinds of an error; any other counts as `crashed`. They are also labels of a metric, which must be few."""
MESSAGE_CHARACTERS = 2000
"""Characters of an error's message, which is stored with the session; as launcher.child.MESSAGE_CHARACTERS."""
KEY_CHARACTERS = 1024
"""Characters of a session's public host key, which has about 120."""
TEXT_CHARACTERS = 2**20
"""Characters of a file's text, such as the end of a log."""
MOST_BYTES = 2**63 - 1
"""The largest number that a column of the registry has room for."""

_Value = TypeVar("_Value")


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable")
    return text


def _replace_unprintable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _public_key(line: str) -> str:
    try:
        return PublicKey.parse(line).line
    except InvalidInputError as error:
        raise ValueError(error.message) from error


HostKey = Annotated[str, StringConstraints(max_length=KEY_CHARACTERS), AfterValidator(_public_key)]
"""A session's public host key, one line."""
Words = Annotated[str, StringConstraints(max_length=500), AfterValidator(_check_printable)]
Path = Annotated[str, StringConstraints(max_length=4096)]
"""A path of at most PATH_MAX characters (limits.h)."""
Id = Annotated[str, StringConstraints(pattern=f"^{IDENTIFIER.pattern}$")]
Ids = Annotated[list[Id], Field(max_length=100_000)]
Driver = Literal["overlay", "reflink", "plain"]
Digest = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")]
Time = Annotated[float, Field(ge=0, lt=2**40, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=MOST_BYTES)]
JobId = Annotated[int, Field(ge=1, lt=2**32)]
"""Slurm's, 32 bits."""
Text = Annotated[str, StringConstraints(max_length=TEXT_CHARACTERS)]
Manifests = Annotated[dict[Id, Text], Field(max_length=20_000)]


Shown = Annotated[str, StringConstraints(max_length=500), AfterValidator(_replace_unprintable)]
"""A message for users; a character that cannot be printed becomes a question mark."""
Submission = Annotated[int, Field(ge=0, lt=10**9)]


class HoldAnswer(BaseModel):
    """The state of a session's kept job: the submission that it gave up, or the one that it has begun since; else 0."""

    model_config = ConfigDict(frozen=True)

    released: Submission = 0
    begun: Submission = 0


Number = Annotated[int, Field(ge=0, lt=10**9)]


class SnapshotNumbers(BaseModel):
    """The numbers of a session's newest snapshots. Other numbers from `first` to `last` are of deleted ones."""

    model_config = ConfigDict(frozen=True)

    first: Number = 1
    last: Number = 0
    existing: Annotated[list[Number], Field(max_length=1000)] = Field(default_factory=list)


class VolumesAnswer(Volumes):
    """The volumes of a session, as the registry stores them."""

    driver: Driver
    promises: Annotated[list[Words], Field(max_length=10)] = Field(default_factory=list)
    layers: dict[Literal["home", "system"], Annotated[int, Field(ge=0, lt=10**6)]] = Field(  # type: ignore[assignment]
        default_factory=dict
    )
    snapshots: Number = 0
    numbers: SnapshotNumbers = SnapshotNumbers()


class SnapshotAnswer(SnapshotView):
    number: Annotated[int, Field(gt=0, lt=10**9)]
    label: Annotated[str, StringConstraints(pattern=f"^({LABEL_PATTERN[1:-1]})?$")] = ""
    reason: Words = ""
    at: Time
    pause: Annotated[float, Field(ge=0, le=10**6, allow_inf_nan=False)] = 0.0
    profile: Name
    version: Version
    digest: Digest = ""
    home: Ids = Field(default_factory=list)
    system: Ids = Field(default_factory=list)


class BatchJobAnswer(BatchJob):
    key: JobKey
    top: Path
    node: Annotated[str, StringConstraints(max_length=255)]
    work: Path
    inside: Path


class EnvironmentAnswer(EnvironmentView):
    id: Id
    of: Words
    digest: Digest = ""
    directory: Path
    driver: Driver | Literal[""] = ""
    base: Path = ""
    created_at: Time
    used_at: Time
    job_id: JobId | None = None
    jobs: list[BatchJobAnswer] = Field(default_factory=list)  # type: ignore[assignment]


class EstimateAnswer(BaseModel):
    """The time at which Slurm would start a job now, or the reason why it would not."""

    model_config = ConfigDict(frozen=True)

    start_at: Time | None
    refusal: Words


class OwnImageAnswer(BaseModel):
    """A profile in a user's own store: its versions, and one of them. The description is checked where it is used."""

    model_config = ConfigDict(frozen=True)

    store: Annotated[str, StringConstraints(max_length=4096, pattern="^/"), AfterValidator(_check_printable)]
    names: Annotated[list[Name], Field(max_length=MAX_ENTRIES)]
    versions: Annotated[list[Version], Field(max_length=MAX_ENTRIES)]
    version: Version | Literal[""] = ""
    description: Annotated[str, StringConstraints(max_length=MAX_OWN_DESCRIPTION_BYTES)] | None = None
    size: Bytes = 0
    offset: Bytes = 0
    packages: Annotated[str, StringConstraints(max_length=MAX_PACKAGES_BYTES)] = ""
    signature: Annotated[str, StringConstraints(max_length=MAX_SIGNATURE_BYTES)] | None = None
    signature_problem: Annotated[
        str, StringConstraints(max_length=MESSAGE_CHARACTERS), AfterValidator(_replace_unprintable)
    ] = ""
    channels: Annotated[str, StringConstraints(max_length=MAX_CHANNELS_BYTES)] | None = None
    channels_problem: Annotated[
        str, StringConstraints(max_length=MESSAGE_CHARACTERS), AfterValidator(_replace_unprintable)
    ] = ""
    problem: Annotated[str, StringConstraints(max_length=MESSAGE_CHARACTERS), AfterValidator(_replace_unprintable)] = ""


class _Collected(BaseModel):
    model_config = ConfigDict(frozen=True)

    layers: list[dict[str, Any]]
    bytes: Bytes
    sessions: Ids


HOST_KEY: TypeAdapter[str] = TypeAdapter(HostKey)
VOLUMES = TypeAdapter(VolumesAnswer)
SNAPSHOT = TypeAdapter(SnapshotAnswer)
SNAPSHOTS = TypeAdapter(Annotated[list[SnapshotAnswer], Field(max_length=100_000)])
ENVIRONMENTS = TypeAdapter(list[EnvironmentAnswer])
OWN_IMAGE = TypeAdapter(OwnImageAnswer)
COLLECTED = TypeAdapter(_Collected)
DRIVER: TypeAdapter[str] = TypeAdapter(Driver)
WORDS: TypeAdapter[str] = TypeAdapter(Words)
SYSTEM: TypeAdapter[str] = TypeAdapter(Literal["kept", "fresh"])
DIRECTORY: TypeAdapter[str] = TypeAdapter(Path)
BYTES: TypeAdapter[int] = TypeAdapter(Bytes)
JOB_ID: TypeAdapter[int] = TypeAdapter(JobId)
ESTIMATE = TypeAdapter(EstimateAnswer)
TEXT: TypeAdapter[str] = TypeAdapter(Text)
MANIFESTS: TypeAdapter[dict[str, str]] = TypeAdapter(Manifests)
SHOWN: TypeAdapter[str] = TypeAdapter(Shown)
HOLDS = TypeAdapter(Annotated[dict[Id, HoldAnswer], Field(max_length=20_000)])


def parse(kind: TypeAdapter[_Value], value: object, what: str) -> _Value:
    """Return a part of an answer as its type. LauncherError `files` names `what` if it does not fit."""
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        message = f"{what} in the session's files is invalid: {first['msg']:.200}"
        raise LauncherError("files", message) from error


def parse_error(message: Mapping[str, Any]) -> LauncherError:
    """Return the error of an answer, with a printable message of limited length."""
    kind, text = message.get("error"), str(message.get("message", ""))[:MESSAGE_CHARACTERS]
    shown = "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
    return LauncherError(kind if isinstance(kind, str) and kind in KINDS else "crashed", shown)
