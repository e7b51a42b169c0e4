"""Extend the time limit of a running job, if Slurm and the site allow it."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.registry.registry import EventEntry, JobChange
from broker.errors import ConflictError, RefusedError, SlurmUnavailableError
from broker.format import format_duration, format_time
from broker.schema.permissions import Permission
from broker.schema.sessions import SessionState
from broker.text.status import describe_job_end
from slurm.scheduler import NoAnswer, Refused

if TYPE_CHECKING:
    from broker.config.settings import SlurmSettings
    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.access import SessionAccess
    from broker.schema.sessions import SessionView
    from slurm.scheduler import Scheduler

log = logging.getLogger(__name__)

RUNS = frozenset({SessionState.STARTING, SessionState.READY})


class ExtendService:
    """Requests to extend a job. Each call asks `access` first."""

    def __init__(
        self,
        *,
        settings: SlurmSettings,
        access: SessionAccess,
        registry: AsyncRegistry,
        scheduler: Scheduler,
        reconciler: Reconciler,
    ) -> None:
        self._settings = settings
        self._access = access
        self._registry = registry
        self._scheduler = scheduler
        self._reconciler = reconciler

    async def extend(self, user: str, name: str, seconds: float) -> SessionView:
        """Raise the time limit of the session's job by `seconds`, rounded up to whole minutes.

        ConflictError if it has no running job; RefusedError if the site or Slurm refuses, with a hint about the job's
        end; SlurmUnavailableError if Slurm does not answer. After an error nothing has changed.
        """
        session = await self._access.resolve(user, name, Permission.EXTEND)
        session = await self.extend_session(session, name, seconds, EventEntry(user, "extend"))
        return self._reconciler.observed.view(session)

    async def extend_session(self, session: Session, name: str, seconds: float, entry: EventEntry) -> Session:
        """Raise the time limit as `extend` does, for a caller who may do so. The event begins with job and time."""
        started, ends, job_id = session.job.started_at, session.job.ends_at, session.job.job_id
        if session.state not in RUNS or started is None or ends is None or job_id is None:
            raise ConflictError(
                f"{name} has no running job with a time limit",
                hint=f"`berth start {name} --time=8:00:00` starts it with one",
            )
        instead = f"the job ends at {format_time(ends, clock.now())}, {describe_job_end(session.view())}"
        minutes = math.ceil((ends - started + seconds) / 60)
        self._check(minutes * 60, ends - started, instead)
        try:
            await self._scheduler.set_time_limit(job_id, minutes)
        except Refused as error:
            log.info("extension refused job=%d error=%s", job_id, error)
            raise RefusedError(f"Slurm refused to extend the job: {error}", hint=instead) from error
        except NoAnswer as error:
            raise SlurmUnavailableError("Slurm does not answer", hint=f"try again; {instead}") from error
        ends = started + minutes * 60.0
        session = await self._registry.update(session.id, _record_extension(entry, session, ends))
        self._reconciler.wake()
        return session

    def _check(self, seconds: float, present: float, instead: str) -> None:
        """Raise RefusedError unless the site extends a job of `present` seconds to `seconds`."""
        longest = self._settings.longest_job
        if longest is None:
            raise RefusedError("this site does not extend jobs", hint=instead)
        if seconds > longest:
            limit = f"this site extends no job beyond {format_duration(longest)} in total"
            raise RefusedError(f"the job has {format_duration(present)} already; {limit}", hint=instead)


def _record_extension(entry: EventEntry, observed: Session, ends: float) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if current.job.job_id != observed.job.job_id or current.state not in RUNS:
            return None
        why = f": {entry.detail}" if entry.detail else ""
        detail = f"job {current.job.job_id}, until {format_time(ends)}{why}"
        return JobChange({}, replace(entry, detail=detail), job={"ends_at": ends})

    return decide
