"""A request that has passed all checks of its arguments: what would change, and the job that would follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.schema.sessions import LIVE, SessionState

if TYPE_CHECKING:
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import Transition
    from profiles.recipe.spec import Profile


@dataclass(frozen=True, slots=True)
class NextJob:
    """The profile and the user's options of the job in which a session would continue."""

    profile: Profile
    options: list[str]


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """A change of a session. Each request is planned first; a check ends there, and the request itself applies it."""

    session: Session
    decide: Transition
    """Returns the change of the session's row. Raises ConflictError if the row does not allow it; changes nothing."""
    next_job: NextJob | None = None
    keeps_job: bool = False
    """Whether the session continues in the same job."""

    @property
    def ends_job(self) -> bool:
        """Whether it ends the programs of a running session, which is started again, in another job or the same."""
        return self.next_job is not None and has_next_job(self.session)

    def check(self) -> None:
        """Raise ConflictError if the session does not allow the change now."""
        self.decide(self.session)


def has_next_job(session: Session) -> bool:
    """Whether the session has a job, and no stop is requested: after a change it continues in another one."""
    return session.state in LIVE - {SessionState.STOPPING}
