"""Sessions and events as the site's operators see them.

Everything here is a list of what is shown: a new field or event stays the owner's alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller.sessions.guest_view import only_resources
from broker.schema.admin import AuditEvent, OperatorSessionView
from broker.schema.sessions import LIVE, SessionState

if TYPE_CHECKING:
    from broker.controller.registry.event_model import Event
    from broker.controller.registry.models import Session

OPERATOR_STOP = "operator-stop"
OPERATOR_EXTEND = "operator-extend"
OPERATOR_MESSAGE = "operator-message"
AUDITED_DETAILS = frozenset(
    {
        *(OPERATOR_STOP, OPERATOR_EXTEND, OPERATOR_MESSAGE),
        *("extend", "submitted", "continued", "held"),  # jobs and times
        *("share", "unshare", "leave"),  # who may use the session
    }
)
"""Actions whose events are shown to operators with their detail. Those of others may have names and words of users."""
_ON_NODE = frozenset({SessionState.STARTING, SessionState.READY, SessionState.STOPPING})
"""States in which the session's job may run."""


def node_of(session: Session) -> str:
    """Return the node of the session's running job; empty without one."""
    return session.job.node if session.state in _ON_NODE else ""


def session_for_operators(session: Session, stale_since: float | None) -> OperatorSessionView:
    """Return the session as operators may see it."""
    job = session.job
    return OperatorSessionView(
        session=session.full_name,
        owner=session.owner,
        name=session.name,
        state=session.state,
        node=node_of(session),
        job_id=job.job_id,
        gpus=job.gpus,
        options=only_resources(session.options),
        created_at=session.created_at,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        ends_at=job.ends_at if session.state in LIVE else None,
        stale_since=stale_since,
    )


def event_for_operators(event: Event) -> AuditEvent:
    """Return the event as operators may see it."""
    return AuditEvent(
        at=event.at,
        actor=event.actor,
        owner=event.owner,
        session=event.session,
        action=event.action,
        detail=event.detail if event.action in AUDITED_DETAILS else "",
    )
