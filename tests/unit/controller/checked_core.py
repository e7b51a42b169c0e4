"""A controller's core with a moody Slurm and launcher, and what must hold of its sessions after each step."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant

import broker.controller.sessions.lifecycle
import broker.controller.sessions.pending
import broker.controller.sessions.resize
from broker.controller.reconcile.job_comment import matching_announcement
from broker.controller.reconcile.succession import CONTINUABLE_STATES
from broker.schema.sessions import LIVE, SessionState
from broker.ssh.keys import PublicKey
from slurm.state import JobState
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.moody import MoodyLauncher, MoodyScheduler

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from broker.controller.registry.models import Session
    from slurm.scheduler import Job

MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a private directory there; every database is synced often
_Thing = TypeVar("_Thing")


class CheckedCore(RuleBasedStateMachine):
    """The rules are in the subclass."""

    launcher: MoodyLauncher
    core: Core

    def __init__(self) -> None:
        super().__init__()
        in_memory = MEMORY if MEMORY.is_dir() else None
        self.directory = Path(tempfile.mkdtemp(prefix="berth-machine-", dir=in_memory))
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock().install(self.patch)
        for module in (
            broker.controller.sessions.lifecycle,
            broker.controller.sessions.pending,
            broker.controller.sessions.resize,
        ):
            self.patch.setattr(module, "ANSWER_TIMEOUT_S", 0.0)
        self.runner = asyncio.Runner()
        self.scheduler = MoodyScheduler(now=self.clock.time)
        self.ran: set[str] = set()
        """Ids of sessions that have had a job: only their owner's word deletes these."""
        self.deleted: set[str] = set()
        self.snapshots: dict[tuple[str, int], dict[str, str]] = {}
        """The content of each acknowledged snapshot, by session and number."""
        self.written = 0

    def _run(self, call: Coroutine[Any, Any, _Thing]) -> _Thing:
        """Run a coroutine to its end; one that never ends fails the test."""
        return self.runner.run(asyncio.wait_for(call, DEADLINE_S))

    async def _launcher(self) -> MoodyLauncher:
        return MoodyLauncher(self.scheduler)

    def restart(self) -> None:
        async def make() -> Core:
            return Core.make(site_config(self.directory), self.launcher)

        self.core = self._run(make())

    def teardown(self) -> None:
        try:
            self.converge()
        finally:
            self._run(self.core.kill())
            self.runner.close()
            self.patch.undo()
            shutil.rmtree(self.directory)

    def _tick(self) -> None:
        async def tick() -> None:
            await self.core.reconciler.tick()
            await self._settle()

        before = len(self.scheduler.asked)
        self._run(tick())
        self._check_orders(self.scheduler.asked[before:])
        if not self.scheduler.silent:
            self._check_endpoints()

    def converge(self) -> None:
        """Everything answers again and time passes: what must then be true."""
        self.scheduler.silent, self.scheduler.remembers = False, True
        self.launcher.mood = self.launcher.disk = "answers"
        self._run(self.core.kill())
        self.restart()
        self.launcher.deliver()
        for job in self._jobs():
            if job.state in {JobState.COMPLETING, JobState.UNKNOWN}:
                self.scheduler.end(job.id)
        for seconds in (1, 70, 70, 400, 1):
            self.clock.now += seconds
            self._tick()
        for session in self._sessions():
            assert session.pending is None, session
            jobs = self.core.live_jobs(session)
            if session.state in LIVE:
                assert session.state not in {SessionState.SUBMITTING, SessionState.STOPPING}, session
                expected = {session.job.job_id} | ({session.next_job_id} if session.successor else set())
                assert jobs.keys() == expected
                assert len(jobs) == 1 or session.state in CONTINUABLE_STATES
            else:
                assert session.state in {SessionState.STOPPED, SessionState.FAILED, SessionState.DELETED}
                assert jobs == {}

    @invariant()
    def no_session_is_lost(self) -> None:
        for session in self._sessions():
            if session.job.job_id is not None:
                self.ran.add(session.id)
        for session in self._sessions():
            if (intent := session.last_operation) is not None and (intent.verb, intent.status) == ("restore", "failed"):
                self.deleted.add(session.id)  # it is what it was, though it was asked back
        gone = {s.id for s in self._sessions() if s.state in {SessionState.DELETING, SessionState.DELETED}}
        assert not (gone & self.ran) - self.deleted

    @invariant()
    def no_acknowledged_snapshot_is_lost(self) -> None:
        volumes = self.launcher.volumes
        records = volumes.records | volumes.trash
        for session in self._sessions():
            intent = session.last_operation
            if intent is not None and intent.status == "done" and intent.snapshot and intent.verb != "clone":
                there = ("alice", session.id) in records
                key = (session.id, intent.snapshot)
                if there and key not in self.snapshots:
                    self.snapshots[key] = self._content(*key)
        for session_id, number in self.snapshots:
            assert self._content(session_id, number) == self.snapshots[session_id, number]

    def _content(self, session_id: str, number: int) -> dict[str, str]:
        volumes = self.launcher.volumes
        record = (volumes.records | volumes.trash)["alice", session_id]
        return volumes._merged("alice", volumes._of_number(record, number)["home"])

    @invariant()
    def nothing_is_stopped_for_idleness_without_a_warning(self) -> None:
        for session in self._sessions():
            if session.stop_reason.startswith("idle for"):
                told = [event.action for event in self.core.registry.events_of(session.owner, session.id)]
                before = told[: -1 - told[::-1].index("stop")]
                assert [action for action in before if action in {"start", "continue", "used", "idle"}][-1] == "idle"

    @invariant()
    def what_is_being_changed_knows_by_what(self) -> None:
        for session in self._sessions():
            if session.state is SessionState.CHANGING:
                assert session.pending is not None

    @invariant()
    def a_session_has_no_job_of_somebody_else(self) -> None:
        foreign = {job.id for job in self._foreign()}
        assert not [session for session in self._sessions() if session.job.job_id in foreign]

    def _check_endpoints(self) -> None:
        for session in self._sessions():
            if session.state is not SessionState.READY:
                continue
            assert session.job.job_id is not None
            job = self.scheduler._jobs.get(session.job.job_id)
            if job is None or job.state in {JobState.UNKNOWN, JobState.COMPLETING}:
                continue  # nothing is known of it now, or it is ending: what was true stays until the next state
            if session.resizing and job.state.ended:
                continue  # it has just been ended for its successor, which the next answer tells
            said = matching_announcement(job, session.submission, PublicKey.parse(session.host_key).fingerprint)
            assert said is not None
            assert said.endpoint == session.endpoint
            assert job.restarts == session.job.restarts

    def _check_orders(self, asked: list[str]) -> None:
        foreign = {job.id for job in self._foreign()}
        orders = [int(words.split()[1]) for words in asked if words.startswith("cancel")]
        assert not foreign & set(orders)
        assert sum(words.startswith("jobs") for words in asked) == 1

    def _announce(self, job_id: int, node: str, truly: bool) -> None:
        job = self.scheduler._jobs[job_id]
        session = self.core.registry.get(job.name.removeprefix("berth-"))
        if session is None or not session.host_key or job_id in self.launcher.held:
            return
        fingerprint = PublicKey.parse(session.host_key).fingerprint if truly else "SHA256:" + "a" * 43
        comment = ":".join(job.comment.split(":")[:3])
        if job_id in self.launcher.begun:
            comment = f"berth:{session.id}:{self.launcher.begun[job_id]}"
        self.scheduler.change(job_id, comment=f"{comment}:{job.restarts}:{node}:20001:{fingerprint}")

    def _jobs(self) -> list[Job]:
        return [job for job in self.scheduler._jobs.values() if not job.state.ended]

    def _one_of(self, things: list[_Thing], which: int) -> list[_Thing]:
        """Draw one thing, or none without any. No precondition: threads, and not the data, decide about things."""
        return [things[which % len(things)]] if things else []

    def _foreign(self) -> list[Job]:
        return [job for job in self.scheduler._jobs.values() if job.user == "bob"]

    def _sessions(self) -> list[Session]:
        return self.core.registry.in_states(SessionState)

    async def _settle(self) -> None:
        """Let everything end that does not hang."""
        while len(tasks := self.core.under_way()) > self.launcher.hanging:
            await asyncio.wait(tasks, timeout=0.01)
        await asyncio.sleep(0)  # the callbacks of tasks that have just ended
