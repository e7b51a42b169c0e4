"""Rebuild an empty or old registry from the manifests beside the data, and from Slurm's jobs."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import pwd
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from broker.config.file import Mode
from broker.controller import clock
from broker.controller.launcher_client.answers import HoldAnswer
from broker.controller.reconcile.job_comment import JOB_PREFIX, read
from broker.controller.registry.grant import SessionGrant
from broker.controller.registry.manifest import Manifest
from broker.controller.registry.models import JobRow
from broker.controller.registry.registry import EventEntry, JobChange
from broker.errors import BerthError, InvalidInputError, SlurmUnavailableError
from broker.schema.sessions import SessionState
from broker.schema.site import RebuildReport
from slurm.scheduler import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.config.settings import Config
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.manifest import WaitingResize
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import Registry, RowChange, Transition
    from slurm.scheduler import Job, Scheduler

log = logging.getLogger(__name__)


async def rebuild(config: Config, registry: Registry, scheduler: Scheduler, launcher: LauncherClient) -> RebuildReport:
    """Add the sessions that the registry lacks. The launcher reads each user's files as that user.

    A session is restored with its live job, which continues to run. Users can write their manifests: one with the id of
    another user's session is skipped, and where the registry does not know whose it is, those of all users who have it.
    SlurmUnavailableError, with nothing changed, if Slurm does not answer.
    """
    try:
        jobs = await scheduler.jobs(JOB_PREFIX)
    except NoAnswer as error:
        raise SlurmUnavailableError(
            "Slurm does not answer, so nothing was restored", hint="try again when `sinfo` answers"
        ) from error
    found = _Found()
    files: list[_UserFiles] = []
    for user in sorted(_users(config, jobs)):
        try:
            manifests, holds = await launcher.manifests(user), await launcher.holds(user)
            files.append(_UserFiles(user, manifests, holds, await launcher.trashed_manifests(user)))
        except BerthError as error:
            found.skipped.append(f"{user}: {error.message}")
    claims = Counter(session_id for each in files for session_id in each.ids)
    kept_until = clock.now() + config.storage.deleted_grace
    for each in files:
        for session_id, text in each.manifests.items():
            hold = each.holds.get(session_id, HoldAnswer())
            restore = functools.partial(_restore, registry, jobs, text=text, hold=hold)
            await found.add(each.user, session_id, restore, is_claimed_once=claims[session_id] == 1)
        for session_id, text in each.deleted.items():
            restore = functools.partial(_restore_deleted, registry, text=text, kept_until=kept_until)
            await found.add(each.user, session_id, restore, is_claimed_once=claims[session_id] == 1)
    return RebuildReport(restored=found.restored, skipped=found.skipped)


@dataclass(frozen=True, slots=True)
class _UserFiles:
    """The files that the launcher has read as one user."""

    user: str
    manifests: dict[str, str]
    holds: dict[str, HoldAnswer]
    deleted: dict[str, str]
    """Manifests of deleted sessions."""

    @property
    def ids(self) -> set[str]:
        return {*self.manifests, *self.deleted}


@dataclass(slots=True)
class _Found:
    """The sessions of a rebuild, for its final report."""

    restored: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    async def add(
        self, user: str, session_id: str, restore: Callable[..., Session | None], *, is_claimed_once: bool
    ) -> None:
        """Restore one session, or note why not. `is_claimed_once`: no other user has a manifest with its id."""
        try:
            session = await asyncio.to_thread(
                restore, user=user, session_id=session_id, is_claimed_once=is_claimed_once
            )
        except (ValidationError, BerthError) as error:
            self.skipped.append(f"{user}/{session_id}: {_in_one_line(error)}")
            return
        if session is not None:
            deleted = " (deleted)" if session.state is SessionState.DELETED else ""
            self.restored.append(f"{session.owner}/{session.name}{deleted}")


def _users(config: Config, jobs: Iterable[Job]) -> set[str]:
    """Return the users whose manifests to read; in personal mode only the caller."""
    if config.mode is Mode.PERSONAL:
        return {pwd.getpwuid(os.getuid()).pw_name}
    return set(users_with_data(config)) | {job.user for job in jobs}


def users_with_data(config: Config) -> list[str]:
    """Return the users who have a directory below the storage root. Only the names are read."""
    root = config.storage.root
    if root.startswith("~/"):
        return [user.pw_name for user in pwd.getpwall() if user.pw_uid >= 1000]
    before, after = root.split("{user}", 1)
    parent = Path(before).parent if not before.endswith("/") else Path(before)
    prefix = "" if before.endswith("/") else Path(before).name
    suffix = after.split("/", 1)[0]
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    return [
        name.removeprefix(prefix).removesuffix(suffix)
        for name in names
        if name.startswith(prefix) and name.endswith(suffix)
    ]


def _restore(
    registry: Registry,
    jobs: Iterable[Job],
    *,
    user: str,
    session_id: str,
    text: str,
    hold: HoldAnswer,
    is_claimed_once: bool,
) -> Session | None:
    """Add one session, or update one of which an old copy of the registry lacks the last submissions.

    Return None if nothing was added.
    """
    manifest = _read(user, session_id, text)
    _check_owner(registry, user, session_id, is_claimed_once=is_claimed_once)
    session = manifest.session()
    requested = _with_job(session, jobs, hold, manifest.resize)
    if registry.restore(session):
        return session
    known = registry.get(session.id)
    if known is not None and requested > known.submissions:
        return registry.update(session.id, _catch_up(session, requested))
    registry.update(session.id, _without_revoked(session.grants))
    return None


def _restore_deleted(
    registry: Registry, *, user: str, session_id: str, text: str, kept_until: float, is_claimed_once: bool
) -> Session | None:
    """Add one deleted session that can be restored. Its grace time starts again, because its deletion time is lost."""
    _check_owner(registry, user, session_id, is_claimed_once=is_claimed_once)
    session = _read(user, session_id, text).session()
    session.state, session.reason, session.operation = SessionState.DELETED, "", None
    session.kept_until = kept_until
    session.grants = []  # its deletion has ended them
    return session if registry.restore(session) else None


def _check_owner(registry: Registry, user: str, session_id: str, *, is_claimed_once: bool) -> None:
    """Raise InvalidInputError for a session of another user, and for one that several users claim."""
    known = registry.get(session_id)
    if known is not None and known.owner != user:
        raise InvalidInputError(f"the session belongs to {known.owner}")
    if known is None and not is_claimed_once:
        raise InvalidInputError("another user has a manifest with this session's id: remove the wrong one")


def _read(user: str, session_id: str, text: str) -> Manifest:
    if not text:
        raise InvalidInputError("the session has no manifest")
    manifest = Manifest.model_validate_json(text)
    if manifest.owner != user or manifest.id != session_id:
        raise InvalidInputError(f"the manifest belongs to {manifest.owner}/{manifest.id}")
    return manifest


def _catch_up(restored: Session, requested: int) -> Transition:
    """Update a row that lacks submissions up to the number `requested`."""

    def decide(current: Session) -> RowChange | None:
        if current.state is SessionState.DELETED or current.submissions >= requested:
            return None
        values = {name: getattr(restored, name) for name in _NEWER}
        successor = restored.next_job
        names = ("job_id", "options", "resizes", "beside")
        next_job = {} if successor is None else {name: getattr(successor, name) for name in names}
        entry = EventEntry("berth", "restored", "a newer submission, from its manifest")
        job = {"job_id": restored.job.job_id, "options": restored.options}
        return JobChange(values, entry, job=job, next_job=next_job)

    return decide


def _without_revoked(grants: list[dict[str, Any]]) -> Transition:
    """Keep only the grants that the manifest has, too: an old copy of the registry has those revoked since then."""

    def decide(current: Session) -> RowChange | None:
        kept = [SessionGrant.model_validate(grant) for grant in grants]
        left = [grant for grant in current.grants if SessionGrant.model_validate(grant) in kept]
        if current.state is SessionState.DELETED or left == current.grants:
            return None
        return {"grants": left}, EventEntry("berth", "unshare", "grants that its manifest does not have")

    return decide


_NEWER = (
    *("submission", "submissions", "successor", "held_job_id"),
    *("name", "host_key", "state", "reason", "options", "operation", "grants"),
    *("profile", "version", "digest", "image_path", "image_size", "persistence", "persistence_chosen"),
    *("follow", "held_versions"),
)
"""Columns that a newer manifest updates in an old registry."""


def _in_one_line(error: ValidationError | BerthError) -> str:
    if isinstance(error, BerthError):
        return error.message.partition("\n")[0]
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def _with_job(session: Session, jobs: Iterable[Job], hold: HoldAnswer, resize: WaitingResize | None) -> int:
    """Set the session's live job and its successor. The next tick of the reconcile loop fills in the rest.

    Return the number of jobs that were requested, as far as manifest and jobs show it.
    """
    live = []
    for job in sorted(jobs, key=lambda job: job.id):
        announcement = read(job)
        if (
            announcement is not None
            and announcement.session_id == session.id
            and job.user == session.owner
            and not job.state.ended
        ):
            live.append((announcement.submission, job.id))
    if not live:
        return session.submissions
    submission, job_id = live[0]
    if hold.released >= submission:
        requested = max(session.submissions, hold.released)
        _continue_in(session, job_id, hold.released)
        return requested
    session.submission = max(submission, hold.begun)  # a run that the job's comment does not show yet
    options = session.options
    if resize is not None and session.submission < resize.submission:
        session.options = resize.former
    session.job_row = _job(session, session.submission, job_id)
    session.state, session.reason, session.operation = SessionState.QUEUED, "", None
    session.submissions = max(session.submissions, session.submission)
    if len(live) > 1 and live[1][0] > session.submission:
        session.successor, job_id = live[1]
        session.next_job = _job(session, session.successor, job_id)
        if resize is not None and session.successor == resize.submission:
            session.next_job.options, session.next_job.resizes, session.next_job.beside = options, True, True
        session.submissions = max(session.submissions, session.successor)
    return session.submissions


def _continue_in(session: Session, job_id: int, released: int) -> None:
    """Let the session begin its next run in a job that waits for it: after the manifest's operation, or at once."""
    session.held_job_id = job_id
    session.submissions = max(session.submissions, released)
    if session.pending is not None:
        return
    # The manifest may be of that next run already: a repeated request to begin it does nothing twice.
    session.submission = session.submissions = max(session.submissions, released + 1)
    session.job_row = _job(session, session.submission, None)
    session.state, session.reason = SessionState.SUBMITTING, ""


def _job(session: Session, submission: int, job_id: int | None) -> JobRow:
    now = clock.now()
    return JobRow(session_id=session.id, submission=submission, job_id=job_id, asked_at=now, options=session.options)
