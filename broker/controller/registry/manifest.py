"""The manifest beside a session's data, from which a lost registry can be rebuilt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from broker.controller.registry.grant import SessionGrant, without_unknown_roles
from broker.controller.registry.models import Session
from broker.controller.registry.operation import Operation
from broker.controller.registry.upgrade_offer import MAX_HELD_VERSIONS, HeldVersion
from broker.names import IDENTIFIER, MAX_GRANTS
from broker.schema.base import Name, UserName, Version
from broker.schema.operations import OPERATIONS
from broker.schema.sessions import ConnectPolicy, Continuation, IdleTime, Persistence, SessionState
from broker.ssh.keys import PublicKey

if TYPE_CHECKING:
    from profiles.image.store import Image
    from profiles.recipe.spec import Profile


def _public_key(line: str) -> str:
    if line:
        PublicKey.parse(line)
    return line


Line = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]
HostKey = Annotated[Line, AfterValidator(_public_key)]
"""A public key, or empty before the first start."""


class ImageTarget(BaseModel):
    """The image of a session after a rollback or a switch, and its persistence policy then."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    profile: Name
    version: Version
    digest: Line
    image_path: Line
    image_size: int = Field(ge=0, lt=2**63)
    persistence: Persistence
    persistence_chosen: bool
    follow: Version | Literal[""] = ""
    """The channel or version that the session follows then."""

    @classmethod
    def of(cls, image: Image, chosen: Persistence | None = None, *, follow: str = "") -> ImageTarget:
        """Return the target of an image, with the owner's persistence policy or else the profile's."""
        return cls(
            profile=image.name,
            version=image.version,
            digest=image.digest,
            image_path=str(image.path),
            image_size=image.size,
            persistence=policy_of(image.profile) if chosen is None else chosen,
            persistence_chosen=chosen is not None,
            follow=follow,
        )

    @property
    def image(self) -> dict[str, Any]:
        """Return the fields of launcher.arguments.ImageArguments."""
        return {"profile": self.profile, "version": self.version, "digest": self.digest}

    def columns(self) -> dict[str, Any]:
        """Return the columns of a session's row."""
        return self.model_dump(mode="json")


def policy_of(profile: Profile) -> Persistence:
    """Return the persistence policy of a profile."""
    return Persistence.model_validate(profile.persistence.model_dump())


class Unfinished(Operation):
    """A pending operation in the manifest: one whose result changes the session's image."""

    id: str = Field(pattern=f"^{IDENTIFIER.pattern}$")
    verb: str = Field(pattern=f"^({'|'.join(verb for verb, kind in OPERATIONS.items() if kind.in_manifest)})$")
    actor: UserName
    why: Line = ""


class WaitingResize(BaseModel):
    """A successor with other resources that may run beside the present job (ADR 144), in the manifest."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    submission: int = Field(ge=1, lt=10**9)
    former: list[Line] = Field(max_length=200)
    """The owner's options of the present job; the manifest has those of the successor."""


class Manifest(BaseModel):
    """The data of a session that cannot be computed again. Unknown keys are ignored: later versions may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: int = Field(default=1, ge=1, le=1)
    id: str = Field(pattern=f"^{IDENTIFIER.pattern}$")
    name: Name
    owner: UserName
    profile: Name
    version: Version
    digest: Line
    image_path: Line
    image_size: int = Field(ge=0, lt=2**63)
    options: list[Line] = Field(max_length=200)
    persistence: Persistence = Persistence()
    persistence_chosen: bool = False
    connecting: ConnectPolicy = ConnectPolicy()
    host_key: HostKey
    created_at: float = Field(ge=0, lt=2**40, allow_inf_nan=False)
    submission: int = Field(ge=0, lt=10**9)
    """The number of requested jobs."""
    continuation: Continuation | Literal[""] = ""
    idle: IdleTime | Literal[""] = ""
    stop_at: float | None = Field(default=None, ge=0, lt=2**40, allow_inf_nan=False)
    stays: bool = False
    follow: Version | Literal[""] = ""
    held_versions: list[HeldVersion] = Field(default=[], max_length=MAX_HELD_VERSIONS)
    grants: Annotated[list[SessionGrant], BeforeValidator(without_unknown_roles), Field(max_length=MAX_GRANTS)] = []
    resize: WaitingResize | None = None
    operation: Unfinished | None = None
    """Set before the volumes change, and removed afterwards. volumes.json shows whether they have changed; a repeated
    launcher call with the same id reports it."""

    @classmethod
    def of(cls, session: Session, unfinished: Operation | None = None, *, options: list[str] | None = None) -> Manifest:
        """Return the manifest of the session, with the options of the job that is submitted."""
        columns = {name: getattr(session, name) for name in cls.model_fields if name not in _NO_COLUMNS}
        columns |= {"submission": session.submissions, "operation": unfinished and unfinished.record()}
        if session.state is SessionState.READY and session.next_job is not None and session.next_job.beside:
            options = session.next_job.options
            columns["resize"] = {"submission": session.successor, "former": session.options}
        return cls.model_validate(columns | ({} if options is None else {"options": options}))

    @property
    def text(self) -> str:
        """The file's content."""
        return self.model_dump_json(indent=1) + "\n"

    def session(self) -> Session:
        """Return the session as stopped, with its pending operation. A query to Slurm finds its job, if it has one."""
        values = self.model_dump(mode="json", exclude=_NO_COLUMNS) | {"submissions": self.submission}
        if self.operation is not None:
            ImageTarget.model_validate(self.operation.arguments.get("to"))
            if self.operation.reversing:
                ImageTarget.model_validate(self.operation.former)
            operation = self.operation.replace(state=SessionState.STOPPED).record()
            return Session(**values, state=SessionState.CHANGING, reason=CHANGING, operation=operation)
        return Session(**values, state=SessionState.STOPPED, reason="restored from its manifest")


_NO_COLUMNS = {"format", "resize", "operation"}
"""Fields of a manifest that are not, or in another form, in the session's row."""

CHANGING = "its volumes are being changed"
