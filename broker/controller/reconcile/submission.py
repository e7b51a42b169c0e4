"""Submit a session's job: write its files and host certificate, call sbatch, and interpret the answer."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError, to_user_error
from broker.controller.reconcile.binds import allowed_binds
from broker.controller.reconcile.job_files import before
from broker.controller.reconcile.reversal import after_refusal, returns_by_itself, trial_settings
from broker.controller.reconcile.session_files import SHOWS_NAME
from broker.controller.reconcile.succession import CONTINUABLE_STATES, outlives_successor, without_successor
from broker.controller.registry.registry import EventEntry, JobChange
from broker.controller.registry.transactions import RegistryError
from broker.errors import BerthError, NoSpaceError, RefusedError
from broker.failpoints import failpoint
from broker.launcher.arguments import HandOverArguments
from broker.profile_options import job_options
from broker.schema.sessions import SessionState
from broker.single_flight import SingleFlight
from broker.ssh.keys import PublicKey
from slurm.gres import count_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.config.settings import Config
    from broker.controller.credentials.login import LoginPolicy, SshCredentials
    from broker.controller.images import ImageFinder
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.manifests import ManifestWriter
    from broker.controller.reconcile.session_files import FileRewriter, SessionFiles
    from broker.controller.reconcile.shown_names import NamePolicy
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.wakeup import ChangeNotifier
    from profiles.image.store import Image
    from profiles.recipe.spec import Profile

log = logging.getLogger(__name__)

UNCONFIRMED = "Slurm has not confirmed the job yet; Berth looks for it, and submits it again if Slurm does not have it"
REFUSED = "REFUSED"
"""The outcome of a refused submission; it is no state of Slurm's."""
DRAIN_MARGIN_S = 10.0
"""Seconds that `drain` waits beyond sbatch's time limit: the launcher kills its child 5 s after its limit."""


class _OvertakenError(Exception):
    """The attempt is obsolete: the session was stopped, its job was found, or another attempt was made."""


class Submitter:
    """Submits jobs, one task for each submission of a session. A restarted controller resumes from the registry row."""

    def __init__(
        self,
        *,
        config: Config,
        registry: AsyncRegistry,
        launcher: LauncherClient,
        manifests: ManifestWriter,
        images: ImageFinder,
        files: SessionFiles,
        logins: LoginPolicy,
        names: NamePolicy,
        rewriter: FileRewriter,
        changes: ChangeNotifier,
    ) -> None:
        self._config = config
        self._registry = registry
        self._launcher = launcher
        self._manifests = manifests
        self._images = images
        self._files = files
        self._logins = logins
        self._names = names
        self._rewriter = rewriter
        self._changes = changes
        self._running = SingleFlight[tuple[str, int], "Session"](self._note_end)

    def under_way(self, session_id: str) -> bool:
        """Whether this process is submitting a job of the session."""
        return any(each == session_id for each, _ in self._running)

    def submit(self, session: Session) -> asyncio.Task[Session]:
        """Start to submit `session`, which was SUBMITTING, or join the running attempt.

        The task returns the current session. RefusedError: Slurm or the site refuses this job; NoSpaceError: no space
        left for its files. Both undo the start, and remove a new session. Without a clear answer the session stays
        SUBMITTING. Nothing is submitted if the session has changed meanwhile, so several callers may submit it.
        """
        key = (session.id, session.submission)
        return self._running.join(key, lambda: self._attempt(session, session.submission))

    def submit_successor(self, session: Session) -> asyncio.Task[Session]:
        """Start to submit the successor of the session's job, or join the running attempt.

        As `submit`, but a refusal leaves the session unchanged, without a successor. After it, and if the attempt is
        obsolete, the files of the present job are restored.
        """
        key = (session.id, session.successor)
        return self._running.join(key, lambda: self._attempt_successor(session))

    async def drain(self) -> None:
        """Wait for the running attempts, so that a controller that stops leaves no unclear submission.

        An attempt that exceeds sbatch's time limit is left to the next controller.
        """
        if tasks := self._running.tasks:
            await asyncio.wait(tasks, timeout=self._config.slurm.submit_timeout + DRAIN_MARGIN_S)

    def _note_end(self, key: tuple[str, int], task: asyncio.Task[Session]) -> None:
        if (
            not task.cancelled()
            and (error := task.exception()) is not None
            and not isinstance(error, (RefusedError, NoSpaceError))
        ):
            log.error("submission %d of %s failed", key[1], key[0], exc_info=error)
        self._changes.notify(key[0])

    async def _attempt(self, session: Session, number: int) -> Session:
        try:
            return await self._submit(session, number)
        except _OvertakenError:
            return await self._registry.require(session.id)

    async def _attempt_successor(self, session: Session) -> Session:
        try:
            current = await self._attempt(session, session.successor)
        except BerthError:
            self._rewriter.rewrite(session.id)
            raise
        if outlives_successor(current):
            self._rewriter.rewrite(session.id)
        return current

    async def _submit(self, session: Session, number: int) -> Session:
        try:
            image = await self._images.require_startable(session.owner, *session.image.values())
            session, login = await asyncio.gather(self._prepare(session, number), self._logins.of(session.owner))
            options = self.options(image.profile, session.options_of(number))
            job: dict[str, Any] = {
                "gpus": count_gpus(options),
                "continuation_default": image.profile.continuation or self._config.slurm.continuation,
                "idle_default": image.profile.idle or self._config.slurm.idle,
            }
            failpoint("start.prepared")
            claim = _claim_attempt(session, number, job, keys_digest=login.digest)
            session = await self._registry.update(session.id, claim)
            if number != session.submission:
                session = await self._hand_over(session, number)
            jobs = await self._registry.jobs_of(session.id)
            job_id = await self._job_id(session, number, options, image, login, before(jobs))
        except LauncherError as error:
            if error.unclear:
                return await self._record_unclear_attempt(session, number, error.message)
            refusal = to_user_error(error, session.name) if error.kind == "space" else RefusedError(error.message)
            raise await self._refuse(session, number, refusal) from error
        except RegistryError:
            raise  # Berth's own failure, and no refusal; the next tick tries again
        except BerthError as error:
            raise await self._refuse(session, number, error) from error
        failpoint("start.submitted")
        return await self._registry.update(session.id, _record_submission(number, job_id))

    async def _job_id(  # noqa: PLR0917 - the parts of a job
        self, session: Session, number: int, options: list[str], image: Image, login: SshCredentials, before: str
    ) -> int:
        """Run sbatch. If the session's owner has replaced or lost its host key, run it with a new certificate."""
        try:
            return await self._ask(
                session, number, options, image, self._files.of(session, number, image, login, before)
            )
        except LauncherError as error:
            if error.kind != "host-key":
                raise
        prepared = await self._launcher.prepare(session.owner, session.id, self._config.storage.driver)
        fingerprint = PublicKey.parse(prepared.host_key).fingerprint
        entry = EventEntry("berth", "host-key", f"the host key has changed to {fingerprint}")
        session = await self._change(session, number, entry, host_key=prepared.host_key)
        return await self._ask(session, number, options, image, self._files.of(session, number, image, login, before))

    async def _ask(self, session: Session, number: int, options: list[str], image: Image, files: dict[str, str]) -> int:
        shown = session.name if await self._names.are_shown() else ""
        files |= {"job.env": files["job.env"] + (SHOWS_NAME if shown else "")}
        held = session.held_job_id if number == session.submission else None
        if held is None or not await self._begin_in(
            session, number, held, files, self._trial(session, image, in_held_job=True)
        ):
            trial = self._trial(session, image, in_held_job=False) if number == session.submission else ""
            files |= {"job.env": files["job.env"] + trial}
            held = await self._sbatch(session, number, options, files, shown)
        await self._manifests.correct(session, files["manifest.json"])
        return held

    def _trial(self, session: Session, image: Image, *, in_held_job: bool) -> str:
        checks_s = sum(check.time_limit for check in image.profile.checks)
        return trial_settings(session, self._config.slurm.ready_timeout, checks_s, in_held_job=in_held_job)

    async def _sbatch(
        self, session: Session, number: int, options: list[str], files: dict[str, str], shown: str
    ) -> int:
        return await self._launcher.submit(
            session.owner,
            session.id,
            number,
            options=options,
            files=files,
            limit=self._config.slurm.submit_timeout,
            shown_name=shown,
            beside=_is_beside(session, number),
        )

    async def _begin_in(self, session: Session, number: int, held: int, files: dict[str, str], trial: str) -> bool:
        """Let the held job begin this submission. Return False if the job has ended: a new one is needed."""
        files = files | {"job.env": f"{files['job.env']}BERTH_JOB={held}\n{trial}"}
        try:
            await self._launcher.begin(session.owner, session.id, number, job_id=held, files=files)
        except LauncherError as error:
            if error.kind != "ended":
                raise
            entry = EventEntry("berth", "not-held", f"{error.message}; another job is requested")
            await self._change(session, number, entry, held_job_id=None)
            return False
        return True

    async def _hand_over(self, session: Session, number: int) -> Session:
        """Let the successor start from a snapshot if possible; it continues the session in any case."""
        try:
            most = self._config.storage.flatten_at
            arguments = HandOverArguments(session=session.id, submission=number, most=most, **session.image)
            volumes = await self._launcher.prepare_handover(session.owner, arguments)
        except LauncherError as error:
            log.warning("successor starts without a snapshot %s error=%s", session.log_name, error.message)
            return session
        return await self._change(session, number, volumes=volumes)

    async def _prepare(self, session: Session, number: int) -> Session:
        """Create a new session's directories, volumes and host key."""
        if session.host_key and session.volumes is not None:
            return session
        prepared = await self._launcher.prepare(session.owner, session.id, self._config.storage.driver)
        return await self._change(session, number, host_key=prepared.host_key, volumes=prepared.volumes)

    def options(self, profile: Profile, own: list[str]) -> list[str]:
        """Return the options of sbatch: the user's override the profile's, which override the site's. RefusedError."""
        return job_options(self._config.slurm.options, profile, own)

    def check(self, profile: Profile, own: list[str]) -> float:
        """Return the number of GPUs of a job with these options; RefusedError if its submission would be refused here.

        Slurm is not asked.
        """
        options = self.options(profile, own)
        allowed_binds(profile, self._config.storage.binds)
        return count_gpus(options)

    async def _record_unclear_attempt(self, session: Session, number: int, message: str) -> Session:
        """Record an attempt without a clear answer: from now on the job has `submit_grace` to show up."""
        log.warning("submission unclear %s submission=%d error=%s", session.log_name, number, message)
        attempted = {"attempted_at": clock.now()}
        if number != session.submission:
            return await self._change(session, number, job=attempted)
        return await self._change(session, number, job=attempted, reason=f"{UNCONFIRMED} ({message})")

    async def _refuse(self, session: Session, number: int, error: BerthError) -> BerthError:
        """Undo the start after a refusal, and return the error to raise, with a hint.

        A session that never ran is removed, one that has a job loses only its successor, any other is stopped.
        """
        message = error.message

        def decide(current: Session) -> RowChange | None:
            if not _waits_for(current, number):
                return None
            if number != current.submission:
                return without_successor(current, EventEntry("berth", "refused", f"the successor: {message}"))
            if current.state is SessionState.SUBMITTING and returns_by_itself(current):
                return after_refusal(current, message, clock.now())
            never_was = current.first_start and current.state is SessionState.SUBMITTING
            state = SessionState.DELETING if never_was else SessionState.STOPPED
            values = {"state": state, "reason": message, "root": False, "held_job_id": None}
            job = {"outcome": REFUSED, "reason": message, "attempted_at": None}
            return JobChange(values, EventEntry("berth", "refused", message), job=job)

        current = await self._registry.update(session.id, decide)
        if current.state is SessionState.DELETING:
            await self._remove(current)
        hint = "nothing was changed; change the options and start it again"
        if number != session.submission:
            hint = f"{session.name} continues in its present job; change the options and resize it again"
        hint += "; `berth cluster` shows the largest request"
        return type(error)(message, hint=error.hint or hint)

    async def _remove(self, session: Session) -> None:
        """Remove the data of a session that never ran, so that its name is free for the next attempt."""
        try:
            await self._launcher.purge(session.owner, session.id)
        except LauncherError as error:
            log.warning("data not removed yet %s error=%s", session.log_name, error.message)
            return
        gone = {"state": SessionState.DELETED, "reason": ""}
        await self._registry.update(session.id, lambda _: (gone, EventEntry("berth", "deleted")))

    async def _change(
        self,
        session: Session,
        number: int,
        entry: EventEntry | None = None,
        *,
        job: Mapping[str, Any] | None = None,
        **values: Any,  # noqa: ANN401 - columns of several types
    ) -> Session:
        """Change columns of a session that still waits for this submission; _OvertakenError if it does not."""

        def decide(current: Session) -> RowChange | None:
            if not _waits_for(current, number):
                raise _OvertakenError
            return _of_submission(current, number, values, entry, job or {})

        return await self._registry.update(session.id, decide)


def _waits_for(current: Session, number: int) -> bool:
    """Whether this submission has no job and no refusal yet."""
    if number == current.successor and current.state in CONTINUABLE_STATES:
        return current.next_job_id is None
    return (
        current.submission == number
        and current.job.job_id is None
        and current.state in {SessionState.SUBMITTING, SessionState.STOPPING}
    )


def _is_beside(session: Session, number: int) -> bool:
    """Whether that submission may run beside the present job."""
    job = session.job_of(number)
    return number != session.submission and job is not None and job.beside


def _of_submission(
    current: Session, number: int, values: Mapping[str, Any], entry: EventEntry | None, job: Mapping[str, Any]
) -> JobChange:
    """Return a change of the session and of its job with that number."""
    if number == current.submission:
        return JobChange(values, entry, job=job)
    return JobChange(values, entry, next_job=job)


def _claim_attempt(observed: Session, number: int, job: Mapping[str, Any], **values: Any) -> Transition:  # noqa: ANN401 - columns of several types
    """Record an attempt, unless the session was stopped, or another attempt was made, since it was observed."""

    def decide(current: Session) -> RowChange | None:
        fresh = current.state is not SessionState.STOPPING and _attempt_time(current, number) == _attempt_time(
            observed, number
        )
        if not fresh or not _waits_for(current, number):
            raise _OvertakenError
        return _of_submission(current, number, values, None, {**job, "attempted_at": clock.now()})

    return decide


def _attempt_time(session: Session, number: int) -> float | None:
    job = session.job_of(number)
    return None if job is None else job.attempted_at


def _record_submission(number: int, job_id: int) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if not _waits_for(current, number):
            return None
        job = {"job_id": job_id, "submitted_at": clock.now()}
        if number != current.submission:
            return JobChange({}, EventEntry("berth", "submitted", f"job {job_id}, as the successor"), next_job=job)
        values: dict[str, Any] = {"reason": "", "held_job_id": None}
        if current.state is SessionState.SUBMITTING:
            values["state"] = SessionState.QUEUED
        if current.held_job_id != job_id:
            return JobChange(values, EventEntry("berth", "submitted", f"job {job_id}"), job=job)
        entry = EventEntry("berth", "continued", f"job {job_id} begins the next run of the session")
        return JobChange(values, entry, job=job | {"began_at": clock.now()})

    return decide
