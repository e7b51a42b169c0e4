"""A scheduler and a launcher that answer, refuse, mumble, hang or forget, as a test wants it from moment to moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.job_comment import read
from tests.fakes.launcher import MumblingLauncher
from tests.fakes.scheduler import SilentScheduler

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.launcher.argument_types import Arguments
    from broker.launcher.arguments import HoldArguments
    from slurm.scheduler import FinishedJob


class MoodyScheduler(SilentScheduler):
    """Silent, or without accounting, as the machine wants it."""

    silent = False
    remembers = True

    async def finished_jobs(self, job_ids: Iterable[int]) -> dict[int, FinishedJob]:
        found = await super().finished_jobs(job_ids)
        return found if self.remembers else {}


class MoodyLauncher(MumblingLauncher):
    """Answers, refuses, mumbles, or hangs before or after Slurm got the job, as the machine wants it."""

    mood = "answers"
    disk = "answers"
    """The same for the verbs on volumes."""
    hanging = 0

    async def _call(self, user: str, arguments: Arguments) -> dict[str, Any]:
        jobs = [job for job in self.scheduler._jobs.values() if job.user == user and job.state.runs]
        self.volumes.open = {
            job.name.removeprefix("berth-")
            for job in jobs
            if job.id not in self.held and (said := read(job)) is not None and said.submission
        }
        if arguments.VERB in {"snapshots", "own_image"}:  # whoever asks for these waits, and would wait for ever
            return await super()._call(user, arguments)
        if self.disk == "full":
            raise LauncherError("space", "No space left on device")
        await self._misbehave("before")
        answer = await super()._call(user, arguments)
        await self._misbehave("after")
        return answer

    async def install(self, user: str, session_id: str, files: Mapping[str, str]) -> None:
        await self._misbehave("before")
        await super().install(user, session_id, files)
        await self._misbehave("after")

    async def renew_host_key(self, user: str, session_id: str) -> str:
        await self._misbehave("before")
        renewed = await super().renew_host_key(user, session_id)
        await self._misbehave("after")
        return renewed

    async def hold(self, user: str, arguments: HoldArguments) -> str:
        await self._misbehave("before")
        message = await super().hold(user, arguments)
        await self._misbehave("after")
        return message

    async def begin(
        self, user: str, session_id: str, submission: int, *, job_id: int, files: Mapping[str, str]
    ) -> None:
        await self._misbehave("before")
        await super().begin(user, session_id, submission, job_id=job_id, files=files)
        await self._misbehave("after")

    async def _misbehave(self, when: str) -> None:
        if self.disk == f"hangs {when}":
            await self._hang_for_ever()
        if self.disk == f"dies {when}":
            raise LauncherError("crashed", "the launcher's child process died")

    async def _hang_for_ever(self) -> None:
        self.hanging += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.hanging -= 1

    async def _sbatch(self, user: str, name: str, comment: str) -> int:
        if self.mood == "refuses":
            raise LauncherError("refused", "Invalid account")
        if self.mood == "hangs":
            await self._hang_for_ever()
        self.unclear = self.mood.startswith("unclear") or self.mood == "hangs after"
        self.queues = self.mood != "unclear, late"
        if self.mood == "unclear, lost":
            raise LauncherError("unclear", "Unable to contact slurm controller")
        try:
            return await super()._sbatch(user, name, comment)
        except LauncherError:
            if self.mood == "hangs after":
                await self._hang_for_ever()
            raise
