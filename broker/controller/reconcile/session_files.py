"""The files of a session's directory that belong to one submission of its job."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.credentials.guests import guest_files
from broker.controller.reconcile.binds import allowed_binds
from broker.controller.reconcile.job_files import before, job_env, tmp_directories
from broker.controller.reconcile.manifests import policy_files
from broker.controller.reconcile.node_watch import offer_notice
from broker.controller.reconcile.retry import Backoff
from broker.controller.reconcile.succession import outlives_successor
from broker.controller.registry.manifest import Manifest
from broker.errors import BerthError
from broker.single_flight import SingleFlight
from broker.ssh.host_names import SessionHost
from profiles.recipe.check import format_checks
from profiles.recipe.service import format_services

if TYPE_CHECKING:
    import asyncio

    from broker.config.settings import Config
    from broker.controller.credentials.login import SshCredentials
    from broker.controller.images import ImageFinder
    from broker.controller.reconcile.manifests import ManifestWriter
    from broker.controller.reconcile.shown_names import NamePolicy
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.ssh.certificates import CertificateAuthority
    from profiles.image.store import Image

log = logging.getLogger(__name__)

FIRST_PAUSE_S, MAX_PAUSE_S = 5.0, 300.0
"""Seconds until the files of a present job are written again after a failure: first, and at most."""
SHOWS_NAME = "BERTH_SHOW_NAME=yes\n"
"""Line of run/job.env if the job's comment shows the session's name."""


class SessionFiles:
    """Composes the files with which a submission's job starts."""

    def __init__(self, config: Config, authority: CertificateAuthority) -> None:
        self._config = config
        self._authority = authority

    def of(self, session: Session, number: int, image: Image, login: SshCredentials, before: str) -> dict[str, str]:
        """Return the files of the submission with that number, with a new host certificate."""
        certificate = self._authority.sign_host(
            session.host_key,
            SessionHost(session.owner, session.name).principals(self._config.ssh.domain),
            valid_seconds=self._config.ssh.host_certificate_days * 86400,
            serial=int(clock.now() * 1e6),
            key_id=f"berth session {session.id}",
        )
        # A successor is submitted while the present job shows its own remark, and may have guests.
        remark = f"notice={notice}\n" if (notice := offer_notice(session)) else ""
        fresh = {"remark": remark, **guest_files([], 0)} if number == session.submission else {}
        return fresh | {
            "manifest.json": Manifest.of(session, options=session.options_of(number)).text,
            "job.env": self.job_env(session, number, image, before),
            **policy_files(session),
            "services": format_services(image.profile.services),
            "checks": format_checks(image.profile.checks),
            "host_certificate": certificate + "\n",
            **login.files,
        }

    def job_env(self, session: Session, number: int, image: Image, before: str) -> str:
        """Return the content of run/job.env for the submission with that number."""
        binds = allowed_binds(image.profile, self._config.storage.binds)
        return (
            job_env(session, number, binds, image.offset, before)
            + f"BERTH_SAVE_EVERY={self._config.storage.save_every}\n"
            + tmp_directories(self._config.storage.tmp_directories)
        )


class FileRewriter:
    """Writes the files of a present submission again, one task for each session.

    The present job reads run/job.env again if Slurm requeues it. With the submission of a successor that has ended, it
    would give up.
    """

    def __init__(
        self,
        *,
        registry: AsyncRegistry,
        manifests: ManifestWriter,
        images: ImageFinder,
        names: NamePolicy,
        files: SessionFiles,
    ) -> None:
        self._registry = registry
        self._manifests = manifests
        self._images = images
        self._names = names
        self._files = files
        self._running = SingleFlight[str, None]()
        self._rewritten: dict[str, int] = {}
        """By session's id, the number of submissions at the last write of its files by this process."""
        self._backoff = Backoff(FIRST_PAUSE_S, MAX_PAUSE_S)

    def rewrite(self, session_id: str) -> asyncio.Task[None]:
        """Start to write the files again that the submission of a successor has replaced, which has ended.

        Nothing is written while the session has a successor, or no present job. A failure is logged, and `ensure`
        repeats the write.
        """
        self._rewritten.pop(session_id, None)
        return self._running.join(session_id, lambda: self._rewrite(session_id))

    def ensure(self, session: Session) -> None:
        """Restore the files of a session that outlives its successor, unless this process has done so: a write may have
        failed, or the controller may have ended before it.
        """
        if self._rewritten.get(session.id) != session.submissions and self._backoff.is_due(session.id):
            self.rewrite(session.id)

    async def close(self) -> None:
        """Cancel the writes."""
        await self._running.close()

    async def _rewrite(self, session_id: str) -> None:
        try:
            session = await self._registry.require(session_id)
            if not outlives_successor(session):
                return
            self._rewritten[session_id] = session.submissions
            content = await self._job_env(session)

            def files(current: Session) -> dict[str, str] | None:
                """Return the file, or None where the files of a later submission are."""
                return {"job.env": content} if current.submissions == session.submissions else None

            await self._manifests.write(session_id, files)
        except BerthError as error:
            self._rewritten.pop(session_id, None)
            self._backoff.record_failure(session_id)
            log.warning("files not rewritten session=%s error=%s", session_id, error.message)
        else:
            self._backoff.forget(session_id)

    async def _job_env(self, session: Session) -> str:
        """Return run/job.env of the session's present submission."""
        image = await self._images.require_image(session.owner, *session.image.values())
        jobs = await self._registry.jobs_of(session.id)
        content = self._files.job_env(session, session.submission, image, before(jobs))
        content += SHOWS_NAME if await self._names.are_shown() else ""
        if session.job.began_at is not None:
            content += f"BERTH_JOB={session.job.job_id}\n"
        return content
