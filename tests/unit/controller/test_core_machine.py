"""The invariants of the controller under any order of requests, events of Slurm and crashes.

One job a session, none lost or orphaned, no false endpoint; no acknowledged snapshot lost, and no request for volumes
pending for ever.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from broker.controller.reconcile.job_comment import read
from broker.controller.reconcile.succession import CONTINUABLE_STATES
from broker.errors import BerthError
from broker.schema.sessions import ContinuationChoice, IdleChoice, SessionState, StopTime
from broker.schema.volumes import CloneRequest, RollbackRequest, SnapshotRequest, SwitchRequest
from profiles.image.store import Store
from slurm.state import JobState
from tests.fakes.core import publish, site_config
from tests.unit.controller.checked_core import CheckedCore

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from broker.schema.sessions import PresentJob, SessionView
    from slurm.scheduler import Job

NAMES = st.sampled_from(["dev", "dev", "ci"])
ENDS = st.sampled_from([state for state in JobState if state.ended])
ODD = st.sampled_from([JobState.COMPLETING, JobState.UNKNOWN, JobState.SUSPENDED, JobState.REQUEUE_HOLD])
WHICH = st.integers(0, 9)
MOODS = st.sampled_from(
    ["answers", "answers", "refuses", "unclear", "unclear, late", "unclear, lost", "hangs", "hangs after"]
)
DISKS = st.sampled_from(
    ["answers", "answers", "answers", "full", "dies before", "dies after", "hangs before", "hangs after"]
)


class Machine(CheckedCore):
    @initialize(begun=st.sampled_from(["", "ready", "stopped"]))
    def first_controller(self, begun: str) -> None:
        store = Store(site_config(self.directory).profiles.stores[0])
        for name in ("base", "other"):
            publish(store, name, content=name.encode())
        self.launcher = self._run(self._launcher())
        self.restart()
        if begun:
            self.everything_goes_well_until_it_is_ready("dev")
            self.write("dev")
            self.snapshot("dev", "answers")
        if begun == "stopped":
            self.everything_goes_well_until_it_has_stopped("dev")

    # What people do.

    @rule(name=NAMES, mood=MOODS)
    def start(self, name: str, mood: str) -> None:
        self.launcher.mood = mood

        async def start() -> None:
            try:
                view = await self.core.start(name)
            except BerthError:
                return
            assert view.state is not SessionState.DELETED
            await self._settle()

        self._run(start())

    @rule(name=NAMES)
    def stop(self, name: str) -> None:
        self._ask(self.core.sessions.stop("alice", name))

    @rule(name=NAMES, at_rest=st.booleans())
    def delete(self, name: str, at_rest: bool) -> None:
        if at_rest:
            self.everything_goes_well_until_it_has_stopped(name)
        session = self.core.registry.find("alice", name)
        if self._ask(self.core.sessions.delete("alice", name)):
            assert session is not None
            self.deleted.add(session.id)

    @rule(name=NAMES, disk=DISKS)
    def restore(self, name: str, disk: str) -> None:
        view = self._change(self.core.deleted.restore("alice", name, None), disk)
        if view is not None:
            self.deleted.discard(view.id)

    @rule(name=NAMES, new=NAMES, at_rest=st.booleans(), disk=DISKS)
    def rename(self, name: str, new: str, at_rest: bool, disk: str) -> None:
        if at_rest:
            self.everything_goes_well_until_it_has_stopped(name)
        self._change(self.core.rename.rename("alice", name, new), disk)

    @rule(name=NAMES)
    def everything_goes_well_until_it_is_ready(self, name: str) -> None:
        """Start a session and make it ready: the rules that need one would hardly ever find one otherwise."""
        self.launcher.mood = self.launcher.disk = "answers"
        self.start(name, "answers")
        session = self.core.registry.find("alice", name)
        if session is None or session.job.job_id not in self.scheduler._jobs:
            return
        if not self.scheduler._jobs[session.job.job_id].state.ended:
            self.scheduler.start(session.job.job_id)
            self._announce(session.job.job_id, "c1", truly=True)
            self._tick()

    @rule(name=NAMES)
    def everything_goes_well_until_it_has_stopped(self, name: str) -> None:
        self.launcher.mood = self.launcher.disk = "answers"
        self.stop(name)
        for _ in range(3):
            self.clock.now += 20
            self._tick()

    @rule(name=NAMES)
    def write(self, name: str) -> None:
        session = self.core.registry.find("alice", name)
        if session is not None and ("alice", session.id) in self.launcher.volumes.records:
            self.written += 1
            self.launcher.volumes.write("alice", session.id, f"file{self.written % 3}", str(self.written))

    @rule(name=NAMES, disk=DISKS)
    def snapshot(self, name: str, disk: str) -> None:
        self._change(self.core.snapshots.snapshot("alice", name, SnapshotRequest()), disk)

    @rule(name=NAMES, number=st.sampled_from(["1", "1", "2"]), disk=DISKS)
    def rollback(self, name: str, number: str, disk: str) -> None:
        request = RollbackRequest(snapshot=number)
        self._change(self.core.snapshots.rollback("alice", name, request), disk)

    @rule(name=NAMES, profile=st.sampled_from(["base", "other"]), fresh=st.booleans(), disk=DISKS)
    def switch(self, name: str, profile: str, fresh: bool, disk: str) -> None:
        request = SwitchRequest(profile=profile, fresh=fresh)
        self._change(self.core.container_changes.switch("alice", name, request), disk)

    @rule(name=NAMES, to=NAMES, disk=DISKS)
    def clone(self, name: str, to: str, disk: str) -> None:
        self._change(self.core.clones.clone("alice", name, CloneRequest(name=to)), disk)

    @rule(name=NAMES, disk=DISKS)
    def restart_session(self, name: str, disk: str) -> None:
        self._change(self.core.container_changes.restart("alice", name), disk)

    @rule(name=NAMES, disk=DISKS)
    def what_was_held_runs_again(self, name: str, disk: str) -> None:
        """A job that was held begins the session's next run."""
        self.everything_goes_well_until_it_is_ready(name)
        self.restart_session(name, disk)
        for _ in range(3):
            self._tick()
        session = self.core.registry.find("alice", name)
        if session is not None and (job := self.scheduler._jobs.get(session.job.job_id or 0)) is not None:
            if job.state.runs:
                self._announce(job.id, job.node, truly=True)
            self._tick()

    @rule(which=WHICH)
    def kept_job_does_not_become_ready(self, which: int) -> None:
        for job in self._one_of(self._kept_jobs_that_start(), which):
            self._fail_to_start(job)

    @rule(name=NAMES, verb=st.sampled_from(["rollback", "switch", "restart", "root"]), disk=DISKS)
    def what_does_not_start_again_is_as_before(self, name: str, verb: str, disk: str) -> None:
        """With a disk that answers; with another one it becomes so later, or the session fails."""
        self.everything_goes_well_until_it_is_ready(name)
        before = self.core.registry.find("alice", name)
        if before is None or before.state is not SessionState.READY or before.root or before.successor:
            return
        content = self.launcher.volumes.read("alice", before.id)
        snapshots, changes = self.core.snapshots, self.core.container_changes
        self._change(
            {
                "rollback": lambda: snapshots.rollback("alice", name, RollbackRequest(snapshot="1")),
                "switch": lambda: changes.switch("alice", name, SwitchRequest(profile="other", fresh=True)),
                "restart": lambda: changes.restart("alice", name),
                "root": lambda: changes.root("alice", name),
            }[verb](),
            disk,
        )
        for _ in range(3):
            self._tick()
        starting = [job for job in self._kept_jobs_that_start() if job.id == before.job.job_id]
        for job in starting:
            self._fail_to_start(job)
        for _ in range(4):
            self._tick()
        after = self.core.registry.get(before.id)
        if starting and disk == "answers" and not self.scheduler.silent:
            assert after is not None
            assert (after.image, after.root, after.job.job_id) == (before.image, False, before.job.job_id)
            assert self.launcher.volumes.read("alice", before.id) == content

    def _kept_jobs_that_start(self) -> list[Job]:
        """The jobs in whose present run sshd does not listen yet, and which wait again if it never does."""
        return [job for job in self._jobs() if job.state.runs and self._may_wait_again(job)]

    def _may_wait_again(self, job: Job) -> bool:
        directory = self.launcher.directories.get(("alice", job.name.removeprefix("berth-")))
        submission, said = self.launcher.begun.get(job.id), read(job)
        if directory is None or submission is None or job.id in self.launcher.held:
            return False
        env = directory.files.get("job.env", "")
        listens = said is not None and said.submission == submission
        return not listens and f"BERTH_SUBMISSION={submission}\n" in env and "BERTH_READY_LIMIT" in env

    def _fail_to_start(self, job: Job) -> None:
        submission = self.launcher.begun[job.id]
        session_id = job.name.removeprefix("berth-")
        self.scheduler.change(job.id, comment=f"berth:{session_id}:{submission}:{job.restarts}:not-ready")
        self.launcher.held[job.id] = submission

    @rule(name=NAMES, disk=DISKS)
    def root(self, name: str, disk: str) -> None:
        self._change(self.core.container_changes.root("alice", name), disk)

    @rule(name=NAMES, disk=DISKS)
    def commit_root(self, name: str, disk: str) -> None:
        self._change(self.core.container_changes.commit_root("alice", name), disk)

    def _change(self, asked: Coroutine[Any, Any, SessionView], disk: str) -> SessionView | None:
        """Ask for something on a disk in that mood; None if it is refused or has failed."""
        self.launcher.disk = disk

        async def change() -> SessionView:
            view = await asked
            await self._settle()
            return view

        try:
            return self._run(change())
        except BerthError:
            return None

    def _ask(self, call: Coroutine[Any, Any, object]) -> bool:
        """Ask for something that writes files at once; whether it was done. A disk that hangs would be waited for."""
        before, self.launcher.disk = self.launcher.disk, "answers"
        try:
            self._run(call)
        except BerthError:
            return False
        finally:
            self.launcher.disk = before
        return True

    # What the controller does, and what becomes of it.

    @rule(mood=MOODS, disk=DISKS, seconds=st.sampled_from([0.1, 3, 20, 70, 400]))
    def tick(self, mood: str, disk: str, seconds: float) -> None:
        self.launcher.mood, self.launcher.disk = mood, disk
        self.clock.now += seconds
        self._tick()

    @rule(name=NAMES, mood=MOODS, policy=st.sampled_from(["always", "12h", "never"]))
    def the_end_of_its_job_is_near(self, name: str, mood: str, policy: str) -> None:
        """A successor is asked for, if the policy says so."""
        session = self.core.registry.find("alice", name)
        if session is None or session.job.ends_at is None or session.state not in CONTINUABLE_STATES:
            return
        self._ask(self.core.policies.set_continuation("alice", name, ContinuationChoice(continuation=policy)))
        self.clock.now = max(self.clock.now, session.job.ends_at - 400)
        self.launcher.mood = mood
        self._tick()

    @rule(
        name=NAMES,
        mood=MOODS,
        ready=st.booleans(),
        options=st.sampled_from([["--gres=none"], ["--gres=gpu:1"]]),
        present_job=st.sampled_from(["keep", "end"]),
    )
    def resize(self, name: str, mood: str, ready: bool, options: list[str], present_job: PresentJob) -> None:
        """The next job is requested with other resources, beside the present one or in its place."""
        if ready:
            self.everything_goes_well_until_it_is_ready(name)
        self.launcher.mood, self.launcher.disk = mood, "answers"
        self._ask(self.core.resize.resize("alice", name, options, present_job))
        self._run(self._settle())

    @rule(name=NAMES)
    def the_next_job_can_take_over(self, name: str) -> None:
        """Slurm starts a successor that may run beside the present job, and it waits for the volumes."""
        session = self.core.registry.find("alice", name)
        beside = session is not None and session.next_job is not None and session.next_job.beside
        job = self.scheduler._jobs.get(session.next_job_id or 0) if session is not None and beside else None
        if session is not None and job is not None and job.state is JobState.PENDING:
            self.scheduler.start(job.id, "c2")
            self.core.waits(session)

    @rule(name=NAMES)
    def withdraw_a_resize(self, name: str) -> None:
        self._ask(self.core.resize.withdraw("alice", name))

    @rule(name=NAMES, seconds=st.sampled_from([10.0, 300.0]), keep=st.booleans())
    def choose_when_it_is_stopped(self, name: str, seconds: float, keep: bool) -> None:
        wanted = StopTime(at=self.clock.now + seconds, keep=keep)
        self._ask(self.core.policies.set_stop_time("alice", name, wanted))

    @rule(name=NAMES, idle=st.sampled_from(["1m", "1m", "1h", "never"]))
    def choose_when_it_is_idle(self, name: str, idle: str) -> None:
        self._ask(self.core.policies.set_idle("alice", name, IdleChoice(idle=idle)))

    @rule()
    def crash(self) -> None:
        self._run(self.core.kill())
        self.restart()

    @rule()
    def two_starts_and_a_tick_at_once(self) -> None:
        self.launcher.mood = "answers"

        async def both() -> None:
            tick = asyncio.ensure_future(self.core.reconciler.tick())
            starts = [asyncio.ensure_future(self.core.start("dev")) for _ in range(2)]
            await asyncio.gather(tick, *starts, return_exceptions=True)
            await self._settle()

        self._run(both())

    # What Slurm does.

    @rule(silent=st.booleans(), remembers=st.booleans())
    def slurm_changes_its_mood(self, silent: bool, remembers: bool) -> None:
        self.scheduler.silent, self.scheduler.remembers = silent, remembers

    @rule()
    def slurm_takes_what_it_did_not_answer_to(self) -> None:
        self.launcher.deliver()

    @rule(which=WHICH, truly=st.booleans(), node=st.sampled_from(["c1", "c2"]))
    def job_runs(self, which: int, truly: bool, node: str) -> None:
        for job in self._one_of(self._jobs(), which):
            self.scheduler.start(job.id, node)
            self._announce(job.id, node if truly else "c3", truly)

    @rule(which=WHICH, since=st.sampled_from([20, 100, 5000, None]))
    def job_says_how_it_is_used(self, which: int, since: int | None) -> None:
        for job in self._one_of(self._jobs(), which):
            parts = job.comment.split(":")[:8]  # as far as the fingerprint, if it listens
            if len(parts) == 8:
                use = [] if since is None else [str(int(self.clock.now) - since), ""]
                self.scheduler.change(job.id, comment=":".join([*parts, *use]))

    @rule(which=WHICH, end=ENDS, forgotten=st.booleans())
    def job_ends(self, which: int, end: JobState, forgotten: bool) -> None:
        for job in self._one_of(self._jobs(), which):
            self.scheduler.end(job.id, end)
            if forgotten:
                self.scheduler.forget(job.id)

    @rule(which=WHICH)
    def job_is_requeued(self, which: int) -> None:
        for job in self._one_of(self._jobs(), which):
            self.scheduler.requeue(job.id)

    @rule(which=WHICH, state=ODD)
    def job_is_in_an_odd_state(self, which: int, state: JobState) -> None:
        for job in self._one_of(self._jobs(), which):
            self.scheduler.change(job.id, state=state)

    @rule(which=WHICH, user=st.sampled_from(["alice", "bob"]), runs=st.booleans())
    def somebody_submits_a_job_of_that_name(self, which: int, user: str, runs: bool) -> None:
        for session in self._one_of(self._sessions(), which):
            job_id = self.scheduler.submit(f"berth-{session.id}", user=user, comment=f"berth:{session.id}:0")
            if runs:
                self.scheduler.start(job_id)
                self._announce(job_id, "c1", truly=True)


def _settings(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )


def test_short_lives() -> None:
    run_state_machine_as_test(Machine, settings=_settings(25, 25))


def test_forgotten_successor_is_submitted_again() -> None:
    state = Machine()
    state.first_controller(begun="")
    state.everything_goes_well_until_it_is_ready(name="dev")
    state.the_end_of_its_job_is_near(mood="answers", name="dev", policy="always")
    (session,) = state._sessions()
    assert session.next_job_id is not None
    state.scheduler.end(session.next_job_id, JobState.CANCELLED)
    state.scheduler.forget(session.next_job_id)
    state.teardown()


@pytest.mark.soak
def test_long_lives() -> None:
    run_state_machine_as_test(Machine, settings=_settings(1000, 50))
