"""A launcher in memory, and ones that misbehave; test_fake_launcher.py holds it against the real one."""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh

from broker.controller.launcher_client import answers
from broker.controller.launcher_client.client import LauncherClient
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.launcher_client.volumes import Prepared
from broker.launcher.arguments import OwnImageArguments
from broker.launcher.image_verbs import own_image
from broker.launcher.request import RequestContext
from broker.ssh import host_key as hostkey
from tests.fakes.volumes import FakeVolumes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.launcher.argument_types import Arguments
    from broker.launcher.arguments import HoldArguments
    from tests.fakes.scheduler import FakeScheduler


PYTHON = "/usr/bin/python3" if os.getuid() == 0 else sys.executable
"""For a real launcher in a test: one that the account which it becomes can start too, which the environment of root's
own tests may not let it.
"""


@dataclass(slots=True)
class Directory:
    """The files of one session on the shared file system."""

    host_key: str
    files: dict[str, str] = field(default_factory=dict)
    log: str = ""


class FakeLauncher(LauncherClient):
    """Submits to `scheduler`. Tests set users' keys and logs, and read what was asked, such as `submit alice 2`."""

    def __init__(self, scheduler: FakeScheduler, storage: str = "/shared/berth/{user}") -> None:
        self.scheduler = scheduler
        self.storage = storage
        self.gone = asyncio.Event()
        self.directories: dict[tuple[str, str], Directory] = {}
        self.set_aside: dict[tuple[str, str], Directory] = {}
        self.volumes = FakeVolumes(self._runs)
        self.authorized_keys: dict[str, str] = {}
        self.own_storage: dict[str, Path] = {}
        """By user, a directory of this process's user that stands for the user's storage."""
        self.asked: list[str] = []
        self.failures: dict[str, LauncherError] = {}
        """By verb: what it answers instead."""
        self.held: dict[int, int] = {}
        """By job: the submission whose volumes it has given up."""
        self.beside: set[int] = set()
        """The submissions that Slurm may start beside another job of their session."""
        self.not_ready: dict[int, str] = {}
        """By job: why its last run did not become ready."""
        self.begun: dict[int, int] = {}
        """By job: the later submission that has begun in it."""
        self.loses: dict[str, int] = {}
        """By verb: the answer to which call from now on is lost, though it has been done."""
        self.hangs: dict[str, str] = {}
        """By verb: `before` or `after` it does what was asked, it hangs for ever."""
        self.estimated = answers.EstimateAnswer(start_at=time.time(), refusal="")
        """The answer of `estimate`."""
        self.stuck = asyncio.Event()
        """Set once one does."""

    async def prepare(self, user: str, session_id: str, driver: str) -> Prepared:
        del driver
        self._note("prepare", user)
        directory = self._made(user, session_id)
        return Prepared(directory.host_key, self.volumes.prepare(user, session_id))

    def _made(self, user: str, session_id: str) -> Directory:
        directory = self.directories.setdefault((user, session_id), Directory(""))
        if not directory.host_key:
            host_key = asyncssh.generate_private_key("ssh-ed25519", comment=f"berth session {session_id}")
            directory.host_key = host_key.export_public_key().decode().strip()
        return directory

    async def renew_host_key(self, user: str, session_id: str) -> str:
        self._note("renew", user)
        await self._hang("renew", "before")
        self._directory(user, session_id).host_key = ""
        renewed = self._made(user, session_id).host_key
        await self._hang("renew", "after")
        self._answer("renew")
        return renewed

    async def install(self, user: str, session_id: str, files: Mapping[str, str]) -> None:
        self._note("install", user)
        await self._hang("install", "before")
        self._directory(user, session_id).files.update(files)
        await self._hang("install", "after")
        self._answer("install")

    async def submit(
        self,
        user: str,
        session_id: str,
        submission: int,
        *,
        options: list[str],
        files: Mapping[str, str],
        limit: float,
        shown_name: str = "",
        beside: bool = False,
    ) -> int:
        del limit
        if beside:
            self.beside.add(submission)
        self._note("submit", user, str(submission), *options)
        directory = self._directory(user, session_id)
        certified = hostkey.certified_key(files.get("host_certificate", ""))
        if (
            certified is not None
            and hostkey.public_key_line(certified, "").split()[1] != self._made(user, session_id).host_key.split()[1]
        ):
            raise LauncherError("host-key", "the session's host key is not the one that its certificate is for")
        directory.files.update(files)
        return await self._sbatch(
            user, f"berth-{session_id}", f"berth:{session_id}:{submission}{shown_name and f' {shown_name}'}"
        )

    async def estimate(self, user: str, session_id: str, options: list[str], *, limit: float) -> answers.EstimateAnswer:
        del limit
        self._note("estimate", user, *options)
        await self._hang("estimate", "before")
        self._directory(user, session_id)
        if error := self.failures.get("estimate"):
            raise error
        return self.estimated

    async def hold(self, user: str, arguments: HoldArguments) -> str:
        self._note("hold", user)
        await self._hang("hold", "before")
        if not self._lives(arguments.job_id):
            raise LauncherError("ended", f"job {arguments.job_id} has ended")
        if not self._runs(arguments.job_id):
            raise LauncherError("conflict", f"job {arguments.job_id} did not answer")
        self.held[arguments.job_id] = arguments.submission
        await self._hang("hold", "after")
        self._answer("hold")
        return self.not_ready.get(arguments.job_id, "")

    async def begin(
        self, user: str, session_id: str, submission: int, *, job_id: int, files: Mapping[str, str]
    ) -> None:
        self._note("begin", user, str(submission))
        await self._hang("begin", "before")
        if not self._lives(job_id):
            raise LauncherError("ended", f"job {job_id} has ended")
        self._directory(user, session_id).files.update(files)
        self.held.pop(job_id, None)
        self.not_ready.pop(job_id, None)
        self.begun[job_id] = submission
        await self._hang("begin", "after")
        self._answer("begin")

    async def keys(self, user: str) -> str:
        self._note("keys", user)
        return self.authorized_keys.get(user, "")

    async def log(self, user: str, session_id: str, tail: int) -> str:
        self._note("log", user)
        directory = self.directories.get((user, session_id))
        return directory.log[-tail:] if directory else ""

    async def terminals(self, user: str, session_id: str) -> str:
        self._note("terminals", user)
        await self._hang("terminals", "before")
        self._answer("terminals")
        return self._directory(user, session_id).files.get("terminals", "")

    async def listed_services(self, user: str, session_id: str) -> str:
        self._note("listed_services", user)
        await self._hang("listed_services", "before")
        self._answer("listed_services")
        return self._directory(user, session_id).files.get("listed", "")

    async def manifests(self, user: str) -> dict[str, str]:
        self._note("manifests", user)
        return _manifests(self.directories, user)

    async def holds(self, user: str) -> dict[str, answers.HoldAnswer]:
        self._note("holds", user)
        own = {job.name.removeprefix("berth-"): job.id for job in self.scheduler._jobs.values() if job.user == user}
        states = {
            session_id: answers.HoldAnswer(
                released=self.held.get(job_id, 0), begun=0 if job_id in self.held else self.begun.get(job_id, 0)
            )
            for session_id, job_id in own.items()
        }
        return {session_id: state for session_id, state in states.items() if state != answers.HoldAnswer()}

    async def trashed_manifests(self, user: str) -> dict[str, str]:
        self._note("manifests", user)
        return _manifests(self.set_aside, user)

    async def _call(self, user: str, arguments: Arguments) -> dict[str, Any]:
        """Answer a verb on volumes."""
        verb, request = arguments.VERB, arguments.request()
        self._note(verb, user)
        await self._hang(verb, "before")
        if isinstance(arguments, OwnImageArguments):
            root = self.own_storage.get(user, Path("/nonexistent"))
            return own_image(RequestContext(pwd.getpwuid(os.getuid()), str(root), "sbatch", ""), arguments)
        answer = self.volumes.do(verb, user, request)
        key = (user, request.get("session", ""))
        if verb in {"clone", "promote", "receive"}:
            directory = self._made(*key)
            directory.files.update(request["files"])
            answer = answer | {"host_key": directory.host_key}
        elif verb == "trash" and key in self.directories:
            self.set_aside[key] = self.directories.pop(key)
        elif verb == "untrash" and key in self.set_aside:
            self.directories[key] = self.set_aside.pop(key)
            self.directories[key].host_key = ""
        elif verb in {"purge", "gc"} and not request.get("dry_run"):
            if verb == "purge":
                self.directories.pop(key, None)
            self.set_aside = {each: self.set_aside[each] for each in self.set_aside if each in self.volumes.trash}
        if verb == "untrash":
            answer = answer | {"host_key": self._made(*key).host_key}
        await self._hang(verb, "after")
        self._answer(verb)
        return answer

    def _runs(self, job_id: int) -> bool:
        job = self.scheduler._jobs.get(job_id)
        return job is not None and job.state.runs

    def _lives(self, job_id: int) -> bool:
        job = self.scheduler._jobs.get(job_id)
        return job is not None and not job.state.ended

    def submissions(self) -> int:
        """Return the number of runs of sbatch."""
        return sum(asked.startswith("submit ") for asked in self.asked)

    async def _sbatch(self, user: str, name: str, comment: str) -> int:
        return self.scheduler.submit(name, user=user, comment=comment)

    def _note(self, verb: str, *words: str) -> None:
        self.asked.append(" ".join((verb, *words)))
        if verb in self.failures:
            raise self.failures[verb]

    async def _hang(self, verb: str, when: str) -> None:
        if self.hangs.get(verb) == when:
            self.stuck.set()
            await asyncio.Event().wait()

    def _answer(self, verb: str) -> None:
        """Lose the answer, if that is to happen now."""
        if verb in self.loses:
            self.loses[verb] -= 1
            if not self.loses[verb]:
                del self.loses[verb]
                raise LauncherError("crashed", "the launcher's child process died")

    def _directory(self, user: str, session_id: str) -> Directory:
        if (user, session_id) not in self.directories:
            raise LauncherError("missing", f"{session_id} does not exist")
        return self.directories[user, session_id]


def _manifests(directories: Mapping[tuple[str, str], Directory], user: str) -> dict[str, str]:
    return {
        session_id: directory.files.get("manifest.json", "")
        for (owner, session_id), directory in directories.items()
        if owner == user
    }


class RefusingLauncher(FakeLauncher):
    """Its sbatch hears a clear no while `words` are set."""

    words = "sbatch: error: Batch job submission failed: Invalid account"

    async def _sbatch(self, user: str, name: str, comment: str) -> int:
        if self.words:
            raise LauncherError("refused", self.words)
        return await super()._sbatch(user, name, comment)


class MumblingLauncher(FakeLauncher):
    """Its sbatch times out while `unclear`: the job is queued if `queues`, else after the test calls `deliver`."""

    unclear = True
    queues = True

    def __init__(self, scheduler: FakeScheduler) -> None:
        super().__init__(scheduler)
        self.late: list[tuple[str, str, str]] = []

    def deliver(self) -> None:
        """Slurm takes what it had been given and did not answer to."""
        for user, name, comment in self.late:
            self.scheduler.submit(name, user=user, comment=comment)
        self.late.clear()

    async def _sbatch(self, user: str, name: str, comment: str) -> int:
        if not self.unclear:
            return await super()._sbatch(user, name, comment)
        self.late.append((user, name, comment))
        if self.queues:
            self.deliver()
        raise LauncherError("unclear", "sbatch did not end within 30 s")


class SlowLauncher(FakeLauncher):
    """Its sbatch ends only when `let_go` is set, with the error `then` if there is one. `reached`: one waits."""

    then: LauncherError | None = None

    def __init__(self, scheduler: FakeScheduler) -> None:
        super().__init__(scheduler)
        self.reached = asyncio.Event()
        self.let_go = asyncio.Event()

    async def _sbatch(self, user: str, name: str, comment: str) -> int:
        self.reached.set()
        await self.let_go.wait()
        if self.then is not None:
            raise self.then
        return await super()._sbatch(user, name, comment)
