"""Types of the requests of a site's operators, and of what they see."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from broker.names import MAX_EXTENSION_S, check_message
from broker.schema.base import Strict
from broker.schema.states import SessionState

OperatorMessage = Annotated[str, StringConstraints(max_length=1000), AfterValidator(check_message)]
"""The reason of an act, for the owner: one line of printable characters."""


class OperatorRequest(Strict):
    message: OperatorMessage


class OperatorExtendRequest(OperatorRequest):
    seconds: Annotated[float, Field(gt=0, le=MAX_EXTENSION_S)]
    """Time to add to the job's limit; rounded up to whole minutes."""


class OperatorSessionView(Strict):
    """A session as an operator sees it: no content, no reason, no policy, and of the options only resources."""

    session: str
    """`OWNER.NAME`."""
    owner: str
    name: str
    state: SessionState
    node: str = ""
    """The node of its job, the first one of several; empty unless the job runs."""
    job_id: int | None = None
    """Its present or last job."""
    gpus: float = 0.0
    options: list[str] = []
    """Options of sbatch that are resources, of those that the owner has chosen."""
    created_at: float
    submitted_at: float | None = None
    started_at: float | None = None
    ends_at: float | None = None
    """End of the time limit of a running job."""
    stale_since: float | None = None
    """Time from which Slurm does not answer: the state may be out of date."""


class OperatorSessionList(Strict):
    sessions: list[OperatorSessionView]
    """In the order of owners and names."""
    more: bool = False
    """Whether others follow the last one, which were left out because of the limit."""


class SessionFailure(Strict):
    """A session for which a request about a node failed."""

    session: str
    """`OWNER.NAME`."""
    message: str
    hint: str = ""


class NodeReport(Strict):
    """The result of a request about all sessions with a job on a node."""

    node: str
    done: list[OperatorSessionView]
    """The sessions for which it was carried out."""
    failed: list[SessionFailure] = []


class LimitUse(Strict):
    """A limit of one user, and how much of it is used."""

    name: str
    """The setting, in the section `limits`."""
    used: float | None
    """None if it could not be measured in time."""
    most: float | None
    """None without a limit."""


class UserLimits(Strict):
    user: str
    limits: list[LimitUse]


class AuditEvent(Strict):
    """An event of any user's session."""

    at: float
    actor: str
    """The user, or `berth` itself."""
    owner: str
    session: str
    """The name that the session had."""
    action: str
    detail: str = ""
    """Only of kinds of events whose details have neither contents nor reasons."""


class AuditReport(Strict):
    events: list[AuditEvent]
    """Oldest first."""
    more: bool = False
    """Whether earlier ones were left out because of the limit."""
