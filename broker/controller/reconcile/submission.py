"""Submit a session's job: write its files and host certificate, call sbatch, and interpret the answer."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError, to_user_error
from broker.controller.reconcile.idle import idle_file
from broker.controller.reconcile.succession import CONTINUABLE_STATES
from broker.controller.registry.manifest import Manifest
from broker.controller.registry.registry import EventEntry, JobChange
from broker.controller.registry.transactions import RegistryError
from broker.errors import BerthError, NoSpaceError, RefusedError
from broker.failpoints import failpoint
from broker.format import format_time
from broker.images import require_image
from broker.launcher.arguments import HandOverArguments
from broker.schema.sessions import SessionState
from broker.single_flight import SingleFlight
from broker.ssh.host_names import SessionHost
from broker.ssh.keys import PublicKey
from slurm.gres import count_gpus
from slurm.sbatch import merge_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.config.settings import Config
    from broker.controller.credentials.login import LoginPolicy, SshCredentials
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import JobRow, Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.wakeup import ChangeNotifier
    from broker.ssh.certificates import CertificateAuthority
    from profiles.image.store import Image, Stores
    from profiles.recipe.spec import Profile

log = logging.getLogger(__name__)

UNCONFIRMED = "Slurm has not confirmed the job yet; Berth looks for it, and submits it again if Slurm does not have it"
REFUSED = "REFUSED"
"""The outcome of a refused submission; it is no state of Slurm's."""
DRAIN_MARGIN_S = 10.0
"""Seconds that `drain` waits beyond sbatch's time limit: the launcher kills its child 5 s after its limit."""


LOCK_WAIT_S = 300
"""Seconds that a job waits for its predecessor to release the volumes. If the predecessor's node is unreachable, slurmd
must return there and end it, or the file server must revoke its lock (NFS: after a lease of 90 s)."""


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
        stores: Stores,
        authority: CertificateAuthority,
        logins: LoginPolicy,
        changes: ChangeNotifier,
    ) -> None:
        self._config = config
        self._registry = registry
        self._launcher = launcher
        self._stores = stores
        self._authority = authority
        self._logins = logins
        self._changes = changes
        self._running = SingleFlight[tuple[str, int], "Session"](self._done)

    def under_way(self, session_id: str) -> bool:
        """Whether this process is submitting a job of the session."""
        return any(each == session_id for each, _ in self._running)

    def submit(self, session: Session) -> asyncio.Task[Session]:
        """Start to submit `session`, which was SUBMITTING, or join the running attempt.

        The task returns the current session. RefusedError: Slurm or the site refuses this job; NoSpaceError: no space
        left for its files. Both undo the start, and remove a new session. Without a clear answer the session stays
        SUBMITTING. Nothing is submitted if the session has changed meanwhile, so several callers may submit it.
        """
        return self._begin(session, session.submission)

    def submit_successor(self, session: Session) -> asyncio.Task[Session]:
        """Start to submit the successor of the session's job, or join the running attempt.

        As `submit`, but a refusal leaves the session unchanged, without a successor.
        """
        return self._begin(session, session.successor)

    def _begin(self, session: Session, number: int) -> asyncio.Task[Session]:
        return self._running.join((session.id, number), lambda: self._attempt(session, number))

    async def drain(self) -> None:
        """Wait for the running attempts, so that a controller that stops leaves no unclear submission.

        An attempt that exceeds sbatch's time limit is left to the next controller.
        """
        if tasks := self._running.tasks:
            await asyncio.wait(tasks, timeout=self._config.slurm.submit_timeout + DRAIN_MARGIN_S)

    def _done(self, key: tuple[str, int], task: asyncio.Task[Session]) -> None:
        if (
            not task.cancelled()
            and (error := task.exception()) is not None
            and not isinstance(error, (RefusedError, NoSpaceError))
        ):
            log.error("submission %d of %s failed", key[1], key[0], exc_info=error)
        self._changes.notify()

    async def _attempt(self, session: Session, number: int) -> Session:
        try:
            return await self._submit(session, number)
        except _OvertakenError:
            return await self._registry.require(session.id)

    async def _submit(self, session: Session, number: int) -> Session:
        try:
            image = await asyncio.to_thread(require_image, self._stores, *session.image.values())
            session, login = await asyncio.gather(self._prepare(session, number), self._logins.of(session.owner))
            options = self.options(image.profile, session.options_of(number))
            job: dict[str, Any] = {
                "gpus": count_gpus(options),
                "continuation_default": image.profile.continuation or self._config.slurm.continuation,
                "idle_default": image.profile.idle or self._config.slurm.idle,
            }
            failpoint("start.prepared")
            claim = _claimed(session, number, job, keys_digest=login.digest)
            session = await self._registry.update(session.id, claim)
            if number != session.submission:
                session = await self._hand_over(session, number)
            jobs = await self._registry.jobs_of(session.id)
            job_id = await self._job_id(session, number, options, image, login, before(jobs))
        except LauncherError as error:
            if error.unclear:
                return await self._unclear(session, number, error.message)
            refusal = to_user_error(error, session.name) if error.kind == "space" else RefusedError(error.message)
            raise await self._refuse(session, number, refusal) from error
        except RegistryError:
            raise  # Berth's own failure, and no refusal; the next tick tries again
        except BerthError as error:
            raise await self._refuse(session, number, error) from error
        failpoint("start.submitted")
        return await self._registry.update(session.id, _submitted(number, job_id))

    async def _job_id(  # noqa: PLR0917 - the parts of a job
        self, session: Session, number: int, options: list[str], image: Image, login: SshCredentials, before: str
    ) -> int:
        """Run sbatch. If the session's owner has replaced or lost its host key, run it with a new certificate."""
        try:
            return await self._ask(session, number, options, self._files(session, number, image, login, before))
        except LauncherError as error:
            if error.kind != "host-key":
                raise
        prepared = await self._launcher.prepare(session.owner, session.id, self._config.storage.driver)
        fingerprint = PublicKey.parse(prepared.host_key).fingerprint
        entry = EventEntry("berth", "host-key", f"the host key has changed to {fingerprint}")
        session = await self._change(session, number, entry, host_key=prepared.host_key)
        return await self._ask(session, number, options, self._files(session, number, image, login, before))

    async def _ask(self, session: Session, number: int, options: list[str], files: dict[str, str]) -> int:
        limit = self._config.slurm.submit_timeout
        return await self._launcher.submit(session.owner, session.id, number, options=options, files=files, limit=limit)

    async def _hand_over(self, session: Session, number: int) -> Session:
        """Let the successor start from a snapshot if possible; it continues the session in any case."""
        try:
            most = self._config.storage.flatten_at
            arguments = HandOverArguments(session=session.id, submission=number, most=most, **session.image)
            volumes = await self._launcher.prepare_handover(session.owner, arguments)
        except LauncherError as error:
            log.warning("successor of %s starts without a snapshot: %s", session.id, error.message)
            return session
        return await self._change(session, number, volumes=volumes)

    async def _prepare(self, session: Session, number: int) -> Session:
        """Create a new session's directories, volumes and host key."""
        if session.host_key and session.volumes is not None:
            return session
        prepared = await self._launcher.prepare(session.owner, session.id, self._config.storage.driver)
        return await self._change(session, number, host_key=prepared.host_key, volumes=prepared.volumes)

    def options(self, profile: Profile, own: list[str]) -> list[str]:
        """Return the options of sbatch: the user's override the profile's, which override the site's."""
        return merge_options(merge_options(self._config.slurm.options, profile.resources_as_options()), own)

    def _files(self, session: Session, number: int, image: Image, login: SshCredentials, before: str) -> dict[str, str]:
        binds = allowed_binds(image.profile, self._config.storage.binds)
        certificate = self._authority.sign_host(
            session.host_key,
            SessionHost(session.owner, session.name).principals(self._config.ssh.domain),
            valid_seconds=self._config.ssh.host_certificate_days * 86400,
            serial=int(clock.now() * 1e6),
            key_id=f"berth session {session.id}",
        )
        return {
            "manifest.json": Manifest.of(session, options=session.options_of(number)).text,
            "job.env": job_env(session, number, binds, image.offset, before)
            + f"BERTH_SAVE_EVERY={self._config.storage.save_every}\n",
            "continuation": session.continuation_in_force + "\n",
            "idle": idle_file(session),
            "host_certificate": certificate + "\n",
            **login.files,
        }

    async def _unclear(self, session: Session, number: int, message: str) -> Session:
        """Record an attempt without a clear answer: from now on the job has `submit_grace` to show up."""
        log.warning("submission %d of %s is unclear: %s", number, session.id, message)
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
                return {"successor": 0}, EventEntry("berth", "refused", f"the successor: {message}")
            never_was = current.first_start and current.state is SessionState.SUBMITTING
            state = SessionState.DELETING if never_was else SessionState.STOPPED
            values = {"state": state, "reason": message, "root": False}
            job = {"outcome": REFUSED, "reason": message, "attempted_at": None}
            return JobChange(values, EventEntry("berth", "refused", message), job=job)

        current = await self._registry.update(session.id, decide)
        if current.state is SessionState.DELETING:
            await self._remove(current)
        return type(error)(message, hint=error.hint or "nothing was changed; change the options and start it again")

    async def _remove(self, session: Session) -> None:
        """Remove the data of a session that never ran, so that its name is free for the next attempt."""
        try:
            await self._launcher.purge(session.owner, session.id)
        except LauncherError as error:
            log.warning("data not removed yet session=%s error=%s", session.id, error.message)
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


def _of_submission(
    current: Session, number: int, values: Mapping[str, Any], entry: EventEntry | None, job: Mapping[str, Any]
) -> JobChange:
    """Return a change of the session and of its job with that number."""
    if number == current.submission:
        return JobChange(values, entry, job=job)
    return JobChange(values, entry, next_job=job)


def _claimed(observed: Session, number: int, job: Mapping[str, Any], **values: Any) -> Transition:  # noqa: ANN401 - columns of several types
    """Record an attempt, unless the session was stopped, or another attempt was made, since it was observed."""

    def decide(current: Session) -> RowChange | None:
        fresh = current.state is not SessionState.STOPPING and _attempted_at(current, number) == _attempted_at(
            observed, number
        )
        if not fresh or not _waits_for(current, number):
            raise _OvertakenError
        return _of_submission(current, number, values, None, {**job, "attempted_at": clock.now()})

    return decide


def _attempted_at(session: Session, number: int) -> float | None:
    job = session.job_of(number)
    return None if job is None else job.attempted_at


def _submitted(number: int, job_id: int) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if not _waits_for(current, number):
            return None
        job = {"job_id": job_id, "submitted_at": clock.now()}
        if number != current.submission:
            return JobChange({}, EventEntry("berth", "submitted", f"job {job_id}, as the successor"), next_job=job)
        values: dict[str, Any] = {"reason": ""}
        if current.state is SessionState.SUBMITTING:
            values["state"] = SessionState.QUEUED
        return JobChange(values, EventEntry("berth", "submitted", f"job {job_id}"), job=job)

    return decide


def allowed_binds(profile: Profile, site: list[str]) -> list[str]:
    """Return the profile's binds as `SRC:DEST` or `SRC:DEST:ro`; RefusedError names one that the site forbids."""
    binds = []
    for bind in profile.binds:
        rule = _rule_for(bind.source, site)
        if rule is None:
            raise RefusedError(
                f"the profile binds {bind.source} of the shared file system, which this site does not allow",
                hint="ask the operators to add it to storage.binds",
            )
        readonly = bind.readonly or rule.endswith(":ro")
        binds.append(f"{bind.source}:{bind.destination}" + (":ro" if readonly else ""))
    return binds


def _rule_for(source: str, site: list[str]) -> str | None:
    """Return the first rule whose path is `source` or an ancestor of it, component by component."""
    parts = source.strip("/").split("/")
    for rule in site:
        allowed = rule.removesuffix(":ro").strip("/").split("/")
        if ".." not in parts and parts[: len(allowed)] == allowed:
            return rule
    return None


def before(jobs: list[JobRow]) -> str:
    """Return the login notice about the end of the session's last job; empty if that end needs no explanation."""
    ended = [job for job in jobs if job.job_id is not None and job.ended_at is not None]
    last = max(ended, key=lambda job: job.submission, default=None)
    if last is None or last.ended_at is None or not last.reason:
        return ""
    what = "".join(char for char in last.reason.partition(";")[0] if char.isprintable())
    return f"job {last.job_id} ended {format_time(last.ended_at, 0)}: {what}"


def job_env(session: Session, number: int, binds: list[str], offset: int, before: str = "") -> str:
    """Return the content of run/job.env for the job with that number: see docs/reference/session-job.md."""
    policy = session.policy
    values = {
        "BERTH_SESSION_ID": session.id,
        "BERTH_SESSION_NAME": session.name,
        "BERTH_OWNER": session.owner,
        "BERTH_SUBMISSION": str(number),
        "BERTH_IMAGE": session.image_path,
        "BERTH_IMAGE_SIZE": str(session.image_size),
        "BERTH_IMAGE_OFFSET": str(offset),
        "BERTH_BINDS": ",".join(binds),
        "BERTH_PROFILE": session.profile,
        "BERTH_PROFILE_VERSION": session.version,
        "BERTH_HOME": policy.home,
        "BERTH_SYSTEM": policy.system,
        "BERTH_KEEP": ",".join(_absolute(path, session.owner) for path in policy.keep),
        "BERTH_FRESH": ",".join(_absolute(path, session.owner) for path in policy.fresh),
        "BERTH_LOCK_WAIT": str(LOCK_WAIT_S),
        "BERTH_BEFORE": before,
    }
    if session.root:
        values["BERTH_ROOT"] = "yes"
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _absolute(path: str, owner: str) -> str:
    return f"/home/{owner}/{path[2:]}" if path.startswith("~/") else path
