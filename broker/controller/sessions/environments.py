"""Environments of batch jobs: create one for a job, and create a session from the job's files.

An environment has no row in the registry. Its directory, which the launcher creates and lists, has all its data. The
owner submits the job with the site's sbatch.
"""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError, with_user_errors
from broker.controller.reconcile.binds import allowed_binds
from broker.controller.reconcile.job_files import job_env, tmp_directories
from broker.controller.registry.manifest import CHANGING, ImageTarget
from broker.controller.registry.models import Session
from broker.controller.registry.operation import Operation
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.preconditions import check_source
from broker.errors import BerthError, ConflictError, NotFoundError
from broker.launcher.arguments import CopyArguments, EnvironmentArguments
from broker.names import new_id
from broker.schema.environments import EnvironmentLayers, EnvironmentView
from broker.schema.permissions import Permission
from broker.schema.sessions import SessionState
from broker.single_flight import SingleFlight
from slurm.scheduler import NoAnswer

if TYPE_CHECKING:
    import asyncio

    from broker.config.settings import StorageSettings
    from broker.controller.images import ImageFinder
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.running_copies import RunningCopies
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.limits import Limits
    from broker.controller.sessions.pending import PendingOperations
    from broker.controller.sessions.snapshot_lookup import SnapshotLookup
    from broker.schema.environments import EnvironmentRequest, PromoteRequest
    from broker.schema.sessions import SessionView
    from broker.schema.volumes import SnapshotView
    from profiles.image.store import Image
    from slurm.scheduler import Scheduler


log = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 600.0
"""Seconds between two removals of one user's expired environments."""


class Environments:
    """Requests for environments. No call raises LauncherError."""

    def __init__(
        self,
        *,
        settings: StorageSettings,
        access: SessionAccess,
        registry: AsyncRegistry,
        copies: RunningCopies,
        images: ImageFinder,
        launcher: LauncherClient,
        scheduler: Scheduler,
        pending: PendingOperations,
        limits: Limits,
        lookup: SnapshotLookup,
    ) -> None:
        self._lookup = lookup
        self._settings = settings
        self._access = access
        self._registry = registry
        self._copies = copies
        self._images = images
        self._launcher = launcher
        self._scheduler = scheduler
        self._pending = pending
        self._limits = limits
        self._swept_at: dict[str, float] = {}
        self._sweeping = SingleFlight[str, None]()

    async def make(self, user: str, request: EnvironmentRequest) -> EnvironmentView:
        """Create an environment from a session, stopped or running, or from a profile with an empty home."""
        name, _, version = request.of.partition("@")
        if not version and await self._registry.find(user, name) is not None:
            session = await self._access.resolve(user, name, Permission.CLONE)
            with self._copies.of(session.id):  # a takeover would end the job that makes the copy
                environment = await self._of_session(user, await self._registry.require(session.id), request.at)
        elif request.at is not None:
            raise NotFoundError(f"you have no session {request.of}", hint="--at takes a snapshot of a session")
        else:
            environment = await self._of_profile(user, name, version or None)
        if clock.monotonic() - self._swept_at.get(user, -SWEEP_INTERVAL_S) >= SWEEP_INTERVAL_S:
            self.sweep(user)
        return environment

    async def all(self, user: str) -> list[EnvironmentView]:
        """Return the user's environments, oldest first."""
        return await with_user_errors("your jobs", self._launcher.environments(user))

    async def discard(self, user: str, environment_id: str) -> list[EnvironmentView]:
        """Remove an environment without a running job. Return it, or an empty list if it does not exist."""
        found = [each for each in await self.all(user) if each.id == environment_id]
        for each in found:
            await with_user_errors(each.of, self._remove(user, each.id))
        return found

    async def promote(self, user: str, environment_id: str, request: PromoteRequest) -> SessionView:
        """Create a session from the files that a job has left in its environment, which stays unchanged.

        ConflictError if the name is taken, or while the job runs.
        """
        environment = next((each for each in await self.all(user) if each.id == environment_id), None)
        if environment is None:
            raise NotFoundError(f"you have no environment {environment_id}")
        if await self._registry.find(user, request.name) is not None:
            raise ConflictError(f"you have a session named {request.name} already", hint="give it another name")
        image = await self._image_of(user, environment)
        now = clock.now()
        arguments = {"source": environment_id, "job": request.job, "name": f"job {request.job}"}
        session = Session(
            **ImageTarget.of(image).columns(),
            id=new_id(now),
            name=request.name,
            owner=user,
            state=SessionState.CHANGING,
            reason=CHANGING,
            created_at=now,
            used_at=now,
            operation=Operation.create("promote", user, arguments=arguments).record(),
        )
        async with self._limits.lock(user):
            await self._limits.check_another(user)
            await self._limits.check_storage(user)
            entry = EventEntry(user, "promote", f"of job {request.job}")
            session = await self._registry.create(session, entry)
        return await self._pending.start_operation(session)

    def sweep(self, user: str) -> asyncio.Task[None]:
        """Start to remove the user's expired environments, or join the running removal."""
        self._swept_at[user] = clock.monotonic()
        return self._sweeping.join(user, lambda: self._sweep(user))

    async def close(self) -> None:
        """Cancel the removals; they are repeated later."""
        await self._sweeping.close()

    async def _of_session(self, user: str, session: Session, at: str | None) -> EnvironmentView:
        if at is not None:
            snapshot = await self._lookup.find(session, at)
            values = (snapshot.profile, snapshot.version, snapshot.digest or session.digest)
            image = await with_user_errors(session.name, self._images.require_image(user, *values))
            return await self._create(user, session.name, image, source=session, snapshot=snapshot, chosen=True)
        check_source(session)
        image = await with_user_errors(session.name, self._images.require_startable(user, *session.image.values()))
        allowed_binds(image.profile, self._settings.binds)  # before the copy, which may take long
        present: SnapshotView | None = None
        if session.state is SessionState.READY:
            assert session.job.job_id is not None
            arguments = CopyArguments(
                session=session.id,
                operation=new_id(),
                job_id=session.job.job_id,
                reason="for a batch job",
                automatic=True,
                **session.image,
            )
            copy = await with_user_errors(session.name, self._launcher.copy(user, arguments))
            present = copy.snapshot
            await self._registry.update(session.id, lambda _: ({"volumes": copy.volumes}, None))
        return await self._create(user, session.name, image, source=session, snapshot=present)

    async def _image_of(self, user: str, environment: EnvironmentView) -> Image:
        """Return the image with the environment's digest; earlier versions of Berth recorded only the version."""
        profile, version, digest = environment.profile, environment.version, environment.digest
        if not digest:
            return await self._images.find_image(user, profile, version)
        return await with_user_errors(environment.of, self._images.require_startable(user, profile, version, digest))

    async def _of_profile(self, user: str, name: str, version: str | None) -> EnvironmentView:
        try:
            image = await self._images.find_image(user, name, version)
        except NotFoundError as error:
            what = "profile" if version else "session or profile"
            raise NotFoundError(
                f"you have no {what} {name}{f'@{version}' if version else ''}: {error.message}",
                hint="`berth list` and `berth profile list` show yours",
            ) from error
        return await self._create(user, str(image.name), image, source=None, snapshot=None)

    async def _create(
        self,
        user: str,
        name: str,
        image: Image,
        *,
        source: Session | None,
        snapshot: SnapshotView | None,
        chosen: bool = False,
    ) -> EnvironmentView:
        """Make the environment from a snapshot of `source`: one that the user has `chosen`, or a copy of its state."""
        now = clock.now()
        of = name if source is not None else f"{image.name}@{image.version}"
        environment = Session(
            **ImageTarget.of(image).columns(),
            id=new_id(now),
            name=name,
            owner=user,
            state=SessionState.STOPPED,
            created_at=now,
        )
        number = None if snapshot is None else snapshot.number
        at = number if chosen else None
        described: dict[str, Any] = {"of": of, "snapshot": at, **environment.image, "created_at": now}
        binds = allowed_binds(image.profile, self._settings.binds)
        shows = self._settings.submission_directory and image.profile.submission_directory
        lines = job_env(environment, 0, binds, image.offset) + f"BERTH_SUBMISSION_DIRECTORY={'yes' if shows else ''}\n"
        lines += tmp_directories(self._settings.tmp_directories)
        files = {"batch.json": json.dumps(described) + "\n", "job.env": lines}
        arguments = EnvironmentArguments(
            session=environment.id,
            operation=new_id(),
            source=None if source is None else source.id,
            snapshot=number,
            driver=self._settings.driver,
            files=files,
            **environment.image,
        )
        try:
            directory = await with_user_errors(name, self._launcher.environment(user, arguments))
        except BerthError:
            await self._sweep_away(user, environment.id)
            raise
        detail = f"in {of}" if at is None else f"in {of}, snapshot {at}"
        await self._registry.record(source or environment, EventEntry(user, "batch", detail))
        return EnvironmentView(
            id=environment.id,
            directory=directory,
            shows_submission_directory=shows,
            binds=binds,
            variables=image.profile.environment,
            used_at=now,
            layers=None if snapshot is None else EnvironmentLayers(home=snapshot.home, system=snapshot.system),
            **described,
        )

    async def _sweep(self, user: str) -> None:
        """Remove environments after their grace time, unless their job is still in the queue."""
        try:
            over = clock.now() - self._settings.batch_grace
            old = [each for each in await self._launcher.environments(user) if each.used_at < over]
            if not old:
                return
            jobs = {job.id for job in await self._scheduler.jobs("") if not job.state.ended}
        except (LauncherError, NoAnswer) as error:
            log.info("environments not checked user=%s error=%s", user, error)
            return
        for each in old:
            begun = {int(re.split("[_@]", job.key)[0]) for job in each.jobs} | {each.job_id}
            if not begun & jobs and not any(job.running for job in each.jobs):
                await self._sweep_away(user, each.id)

    async def _sweep_away(self, user: str, environment_id: str) -> None:
        try:
            await self._remove(user, environment_id)
        except LauncherError as error:  # the next sweep finds it
            log.warning("environment not removed id=%s user=%s error=%s", environment_id, user, error.message)

    async def _remove(self, user: str, environment_id: str) -> None:
        await self._launcher.trash(user, environment_id)  # fails while a job has it open
        await self._launcher.purge(user, environment_id)
