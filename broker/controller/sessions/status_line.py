"""One line about a session's state, for users who cannot connect to it now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller import clock
from broker.format import format_time
from broker.text.status import describe_state

if TYPE_CHECKING:
    from broker.controller.reconcile.observed_slurm import ObservedSlurm
    from broker.controller.registry.models import Session


def status_line(observed: ObservedSlurm, session: Session) -> str:
    """Return the line, such as `dev is queued: Resources (waiting for free resources)`."""
    view = observed.view(session)
    stale = view.stale_since
    since = "" if stale is None else f" (as of {format_time(stale)}; Slurm does not answer)"
    return f"{session.name} is {describe_state(view, clock.now())}{since}"
