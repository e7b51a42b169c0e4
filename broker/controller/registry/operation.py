"""The operation on a session's volumes, as the session's row stores it. It is enough to resume from the row alone."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from broker.controller import clock
from broker.errors import BerthError, ConflictError, from_reason
from broker.names import new_id
from broker.schema.operations import OPERATIONS, OperationKind
from broker.schema.sessions import OperationView, SessionState


class Operation(BaseModel):
    """One operation: its request, and in the end its result. A changed operation is a new object."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    """The launcher's verbs do nothing twice for the same id."""
    verb: str
    """A key of OPERATIONS."""
    actor: str
    asked_at: float
    arguments: dict[str, Any] = {}
    start: bool = False
    """Whether the session is started after the operation, also after a failed one."""
    ran: bool = False
    """Whether the session was stopped for the operation: then it is started again after a failure."""
    in_job: bool = False
    """Whether the job of the session, which is stopped for the operation, is held meanwhile (ADR 136)."""
    trial: int = 0
    """The submission that begins in the session's kept job after the operation: if it does not become ready, the
    operation is undone (ADR 137). 0: the operation is not undone."""
    former: dict[str, Any] = {}
    """The session's image and persistence before, as columns of its row."""
    reversal_id: str = ""
    """The id under which the launcher's verbs undo the operation."""
    reversing: bool = False
    """Whether the pending operation is being undone."""
    reversed_at: float = 0.0
    because: str = ""
    """The reason for which it is undone."""
    reversed: bool = False
    """Whether it was undone."""
    state: SessionState = SessionState.STOPPED
    """The state of the session after a failed operation, unless it is started."""
    why: str = ""
    """The reason of that state."""
    status: Literal["pending", "done", "failed"] = "pending"
    reason: str = ""
    message: str = ""
    hint: str = ""
    undo: str = ""
    snapshot: int | None = None

    @classmethod
    def create(cls, verb: str, actor: str, **values: Any) -> Self:  # noqa: ANN401 - fields of several types
        return cls(id=new_id(), verb=verb, actor=actor, asked_at=clock.now(), **values)

    @property
    def kind(self) -> OperationKind:
        return OPERATIONS[self.verb]

    @property
    def request_id(self) -> str:
        """Return the id of the present requests to the launcher."""
        return self.reversal_id if self.reversing else self.id

    @property
    def receives(self) -> bool:
        """Whether the operation makes a session of another user's snapshot."""
        return self.kind.has_source and "owner" in self.arguments

    @property
    def waits_since(self) -> float:
        return self.reversed_at if self.reversing else self.asked_at

    @property
    def pending(self) -> bool:
        return self.status == "pending"

    def replace(self, **values: Any) -> Self:  # noqa: ANN401 - fields of several types
        return self.model_copy(update=values)

    def as_done(self, message: str, *, undo: str = "", snapshot: int | None = None) -> Self:
        return self.replace(status="done", message=message, undo=undo, snapshot=snapshot)

    def as_failed(self, error: BerthError) -> Self:
        return self.replace(status="failed", reason=error.reason, message=error.message, hint=error.hint)

    def record(self) -> dict[str, Any]:
        """Return the JSON object that the row and the manifest store."""
        return self.model_dump(mode="json")

    def view(self) -> OperationView:
        return OperationView.model_validate({name: getattr(self, name) for name in OperationView.model_fields})

    def conflict(self, name: str) -> ConflictError:
        """Return the refusal of another change while this operation on the session `name` is pending."""
        return ConflictError(f"a {self.verb} of {name} is in progress", hint=f"`berth show {name}` shows its state")

    def error(self) -> BerthError | None:
        """Return the error of a failed operation; None for any other."""
        return from_reason(self.reason, self.message, self.hint) if self.status == "failed" else None
