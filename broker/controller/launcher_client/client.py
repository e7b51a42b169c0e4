"""The client of the launcher: it sends requests over the socketpair and receives answers in any order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from broker.controller.launcher_client import answers
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.launcher_client.volumes import Prepared, VolumeClient, host_key, volumes
from broker.controller.metrics import observe_launcher
from broker.launcher.argument_types import LONG_CALL_TIMEOUT_S
from broker.launcher.arguments import (
    BeginArguments,
    EstimateArguments,
    HoldArguments,
    InstallArguments,
    KeysArguments,
    ListedServicesArguments,
    LogArguments,
    ManifestsArguments,
    PrepareArguments,
    RenewArguments,
    SubmitArguments,
    TerminalsArguments,
)
from broker.launcher.places import READY_VERB, Places

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType

    from broker.controller.launcher_client.answers import OwnImageAnswer
    from broker.launcher.argument_types import Arguments
    from broker.launcher.arguments import OwnImageArguments

ANSWER_LIMIT = 64 * 2**20
"""Bytes of one answer: every manifest of one user."""
_ANSWER_BEGIN = re.compile(rb'\{"id": ([0-9]{1,18}), ')
"""As launcher.server.Launcher writes it."""


class _PlaceQueue:
    """The queue of requests for which the launcher has no place, so that other users' requests pass them."""

    def __init__(self) -> None:
        self._shares = Places()
        self._waiting: list[tuple[str, str, asyncio.Future[None]]] = []
        """Verb, user, and a future that is done once there is a place; the oldest first."""

    @contextlib.asynccontextmanager
    async def place(self, verb: str, user: str) -> AsyncIterator[None]:
        """Hold a place during the block."""
        if self._shares.has_room(verb, user):
            self._shares.take(verb, user)
        else:
            await self._wait(verb, user)
        try:
            yield
        finally:
            self._give_back(verb, user)

    async def _wait(self, verb: str, user: str) -> None:
        entry = verb, user, asyncio.get_running_loop().create_future()
        self._waiting.append(entry)
        try:
            await entry[2]
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:  # it has just received a place
                self._give_back(verb, user)
            raise

    def _give_back(self, verb: str, user: str) -> None:
        self._shares.give_back(verb, user)
        for waiting in [*self._waiting]:
            # A cancelled entry removes itself when its task runs.
            if not waiting[2].done() and self._shares.has_room(*waiting[:2]):
                self._waiting.remove(waiting)
                self._shares.take(*waiting[:2])
                waiting[2].set_result(None)


class LauncherClient(VolumeClient):
    """A client of the launcher at the other end of a connected socket.

    An async context manager. `gone` is set when the launcher has exited.
    """

    def __init__(self, control: socket.socket, process: asyncio.subprocess.Process | None = None) -> None:
        super().__init__()
        self._control = control
        self._process = process
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._places = _PlaceQueue()
        self._ids = itertools.count(1)
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.storage = ""
        """The storage template that the launcher was started with."""
        self.gone = asyncio.Event()
        self.check: Callable[[], None] = lambda: None
        """Called before each request; raises to refuse it, as while another controller may have taken over."""

    async def __aenter__(self) -> Self:
        self._control.setblocking(False)
        reader, self._writer = await asyncio.open_connection(sock=self._control, limit=ANSWER_LIMIT)
        greeting = await reader.readline()
        if not greeting:
            raise LauncherError("gone", "the launcher exited at its start")
        self.storage = str(json.loads(greeting)["ok"]["storage"])
        self._reading = asyncio.create_task(self._read(reader))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writer is not None
        assert self._reading is not None
        self._writer.close()
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        if self._process is not None:
            await self._process.wait()

    def tell_ready(self) -> None:
        """Tell the launcher that the service has started. As the main process of a unit it notifies systemd."""
        if self._process is None and self._writer is not None:
            self._writer.write(json.dumps({"id": 0, "verb": READY_VERB}).encode() + b"\n")

    async def prepare(self, user: str, session_id: str, driver: str) -> Prepared:
        """Create the session's directories, volumes (with that driver, or `auto`) and host key if they are missing."""
        answer = await self._call(user, PrepareArguments(session=session_id, driver=driver))
        return Prepared(host_key(answer), volumes(answer))

    async def renew_host_key(self, user: str, session_id: str) -> str:
        """Replace the host key of a session without a job, and return the new one. Repeating it is harmless."""
        return host_key(await self._call(user, RenewArguments(session=session_id)))

    async def install(self, user: str, session_id: str, files: Mapping[str, str]) -> None:
        """Write some of session_verbs.FILES."""
        await self._call(user, InstallArguments(session=session_id, files=dict(files)))

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
        """Write the files and submit the job within `limit` seconds; return its job id.

        `shown_name` is the session's name if the job's comment shows it; `beside`: the job may start while the
        session's present job runs.

        LauncherError `refused` carries Slurm's message. After an `unclear` one the job may be queued.
        """
        arguments = SubmitArguments(
            session=session_id,
            submission=submission,
            options=options,
            files=dict(files),
            shown_name=shown_name,
            beside=beside,
            timeout=limit,
        )
        answer = await self._call(user, arguments)
        try:
            return answers.parse(answers.JOB_ID, answer.get("job_id"), "the job's id")
        except LauncherError as error:
            raise LauncherError("unclear", error.message) from error  # sbatch was run

    async def estimate(self, user: str, session_id: str, options: list[str], *, limit: float) -> answers.EstimateAnswer:
        """Ask Slurm, within `limit` seconds, when it would start a job of the session with these options now."""
        answer = await self._call(user, EstimateArguments(session=session_id, options=options, timeout=limit))
        return answers.parse(answers.ESTIMATE, answer, "the expected start")

    async def hold(self, user: str, arguments: HoldArguments) -> str:
        """Let the session's job give up the volumes and wait for `begin`.

        Return why its last run did not become ready; empty if it did. LauncherError `ended` if the job has ended,
        `conflict` if it cannot wait, `space` if the request could not be written: then the session runs as before.
        """
        answer = await self._call(user, arguments)
        return answers.parse(answers.SHOWN, str(answer.get("message", ""))[:500], "the job's message")

    async def begin(
        self, user: str, session_id: str, submission: int, *, job_id: int, files: Mapping[str, str]
    ) -> None:
        """Write the files and let the held job begin the session's next run.

        LauncherError `ended` if the job has ended; after an `unclear` one it may begin.
        """
        await self._call(
            user, BeginArguments(session=session_id, submission=submission, job_id=job_id, files=dict(files))
        )

    async def keys(self, user: str) -> str:
        """Return the text of the user's own authorized_keys file."""
        answer = await self._call(user, KeysArguments())
        return answers.parse(answers.TEXT, answer.get("text"), "authorized_keys")

    async def log(self, user: str, session_id: str, tail: int) -> str:
        answer = await self._call(user, LogArguments(session=session_id, bytes=tail))
        return answers.parse(answers.TEXT, answer.get("text"), "the log")

    async def terminals(self, user: str, session_id: str) -> str:
        """Return the text of run/terminals; empty if there is none."""
        answer = await self._call(user, TerminalsArguments(session=session_id))
        return answers.parse(answers.TEXT, answer.get("text"), "run/terminals")

    async def listed_services(self, user: str, session_id: str) -> str:
        """Return the text of run/listed; empty if there is none."""
        answer = await self._call(user, ListedServicesArguments(session=session_id))
        return answers.parse(answers.TEXT, answer.get("text"), "run/listed")

    async def manifests(self, user: str) -> dict[str, str]:
        answer = await self._call(user, ManifestsArguments())
        return answers.parse(answers.MANIFESTS, answer.get("manifests"), "a manifest")

    async def holds(self, user: str) -> dict[str, answers.HoldAnswer]:
        """Return the state of the kept jobs of the user's sessions, by session id."""
        answer = await self._call(user, ManifestsArguments())
        return answers.parse(answers.HOLDS, answer.get("holds"), "run/hold.outcome")

    async def trashed_manifests(self, user: str) -> dict[str, str]:
        """Return the manifests of the sessions that `trash` has set aside."""
        answer = await self._call(user, ManifestsArguments())
        return answers.parse(answers.MANIFESTS, answer.get("trash"), "a manifest")

    async def own_image(self, user: str, arguments: OwnImageArguments) -> OwnImageAnswer:
        """Return what the user's own store has of a profile."""
        return answers.parse(answers.OWN_IMAGE, await self._call(user, arguments), "the user's own store")

    async def _call(self, user: str, arguments: Arguments) -> dict[str, Any]:
        verb = arguments.VERB
        async with self._places.place(verb, user):
            began, outcome = time.monotonic(), "cancelled"
            try:
                answer = await self._ask(user, arguments)
                outcome = "done"
            except LauncherError as error:
                outcome = error.kind
                raise
            finally:
                observe_launcher(verb, outcome, time.monotonic() - began)
            return answer

    async def _ask(self, user: str, arguments: Arguments) -> dict[str, Any]:
        if self._writer is None or self.gone.is_set():
            raise LauncherError("gone", "the launcher has left")
        self.check()
        request_id = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        try:
            request = {"id": request_id, "verb": arguments.VERB, "user": user, **arguments.request()}
            if arguments.IS_LONG:
                request["timeout"] = LONG_CALL_TIMEOUT_S
            self._writer.write(json.dumps(request).encode() + b"\n")
            return await answer
        finally:
            self._waiting.pop(request_id, None)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._settle(line)
        except ConnectionResetError:
            pass  # the launcher was killed with unread requests
        finally:
            self.gone.set()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(LauncherError("gone", "the launcher has left"))

    def _settle(self, line: bytes) -> None:
        """Give an answer to its caller. The launcher wrote the id; a user may have written the rest."""
        begin = _ANSWER_BEGIN.match(line)
        answer = self._waiting.get(int(begin[1])) if begin else None
        if answer is None or answer.done():
            return
        try:
            content = json.loads(line)
            if "error" in content:
                raise answers.parse_error(content)
            answer.set_result(dict(content["ok"]))
        except LauncherError as error:
            answer.set_exception(error)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            answer.set_exception(
                LauncherError("crashed", f"invalid response from the launcher: {type(error).__name__}")
            )


def inherit_launcher() -> LauncherClient:
    """Return the client of the launcher that started this controller (site mode)."""
    return LauncherClient(socket.socket(fileno=int(os.environ.pop("BERTH_LAUNCHER_FD"))))


async def spawn_launcher(storage: str) -> LauncherClient:
    """Start a launcher as the same user and without root, and return its client (personal mode)."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "broker.launcher.server",
            f"--serve-fd={theirs.fileno()}",
            f"--storage={storage}",
            "--minimum-uid=1",
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
        )
    return LauncherClient(ours, process)
