"""Submissions that are accepted, refused, left unclear, overtaken, or interrupted."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh
import pytest
from sqlalchemy.exc import OperationalError

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.binds import allowed_binds
from broker.controller.reconcile.job_files import job_env
from broker.controller.reconcile.submission import UNCONFIRMED
from broker.controller.registry.registry import EventEntry
from broker.controller.registry.transactions import RegistryError
from broker.errors import RefusedError
from broker.schema.sessions import OTHER_HOST_KEY, SessionState, StartRequest
from broker.ssh import host_key
from broker.ssh.keys import PublicKey
from broker.text.advice import explain_session
from profiles.image.store import Store
from profiles.recipe.service import Service, parse_services
from profiles.recipe.spec import parse_profile
from tests.deadlines import DEADLINE_S
from tests.fakes.core import OFFSET, RECIPE, Core, publish, site_config, start_until_sbatch
from tests.fakes.launcher import FakeLauncher, MumblingLauncher, RefusingLauncher
from tests.fakes.rows import make_session
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from broker.controller.registry.models import Session


def make(directory: Path, launcher: type[FakeLauncher] = FakeLauncher, **settings: object) -> Core:
    return Core.make(site_config(directory, **settings), launcher(FakeScheduler()))


def test_the_job_gets_its_files_and_the_options_of_site_profile_and_user(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path, slurm={"options": ["--time=1:00:00", "--mem=8G", "--partition=gpu"]})
        await core.start(request=StartRequest(profile="base", options=["--partition=cpu"]))
        session = core.row()
        assert "submit alice 1 --time=1:00:00 --mem=1G --partition=cpu" in core.launcher.asked
        files = core.launcher.directories["alice", session.id].files
        assert (
            files["job.env"]
            == job_env(session, 1, [], OFFSET) + "BERTH_SAVE_EVERY=600\nBERTH_TMP_DIRECTORIES=/tmp,/var/tmp\n"
        )
        assert json.loads(files["manifest.json"])["host_key"] == session.host_key
        assert files["host_certificate"].startswith("ssh-ed25519-cert-v01@openssh.com ")
        assert (session.state, session.job.job_id) == (SessionState.QUEUED, 1)

    asyncio.run(scenario())


def test_job_gets_the_services_of_its_profile(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path)
        publish(Store(tmp_path / "store"), "web", extra="services: [{name: page, command: serve, shell: true}]\n")
        for name, profile in (("one", "web"), ("two", "base")):
            await core.start(name, request=StartRequest(profile=profile))
        services = [core.launcher.directories["alice", core.row(name).id].files["services"] for name in ("one", "two")]
        assert "command=serve\n" in services[0]
        assert parse_services(services[0]) == [Service(name="page", command="serve", socket="page.sock", shell=True)]  # noqa: S604 - no process is started
        assert services[1] == ""

    asyncio.run(scenario())


def test_wrong_options_of_a_profile_are_blamed_on_the_profile(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path)
        publish(Store(tmp_path / "store"), "old", extra="resources: {gpuss: 1}\n")
        with pytest.raises(
            RefusedError, match="the profile old@1 has a wrong option in its `resources`: --gpuss"
        ) as no:
            await core.start(request=StartRequest(profile="old"))
        assert "ask the publisher of old for a corrected version" in no.value.hint
        assert core.registry.find("alice", "dev") is None
        assert {words.split()[0] for words in core.launcher.asked} == {"own_image"}, "nothing was begun"

    asyncio.run(scenario())


def test_a_refusal_of_a_new_session_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path, RefusingLauncher)
        with pytest.raises(RefusedError, match="Invalid account"):
            await core.start()
        await core.tick()
        assert core.registry.find("alice", "dev") is None
        assert core.launcher.directories == {}

    asyncio.run(scenario())


def test_a_refusal_of_a_known_session_leaves_it_stopped_with_its_data(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path, RefusingLauncher)
        core.registry.create(
            make_session(state=SessionState.STOPPED, digest=core.stores.find("base").digest),
            EventEntry("alice", "start"),
        )
        await core.launcher.prepare("alice", core.row().id, "auto")
        with pytest.raises(RefusedError):
            await core.start()
        await core.tick()
        assert core.row().state is SessionState.STOPPED
        assert "Invalid account" in core.row().reason
        assert core.launcher.directories

    asyncio.run(scenario())


def test_a_new_session_that_was_stopped_while_it_was_refused_is_kept_as_its_owner_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        core, launcher, starting = await start_until_sbatch(site_config(tmp_path))
        await core.sessions.stop("alice", "dev")
        launcher.then = LauncherError("refused", "no")
        launcher.let_go.set()
        with pytest.raises(RefusedError):
            await starting
        assert (core.row().state, core.row().reason) == (SessionState.STOPPED, "no")

    asyncio.run(scenario())


def test_an_unclear_answer_keeps_the_session_and_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path, MumblingLauncher)
        view = await core.start()
        assert view.state is SessionState.SUBMITTING
        assert view.reason.startswith(UNCONFIRMED)
        await core.tick()
        assert (core.row().state, core.row().job.job_id) == (SessionState.QUEUED, 1)

    asyncio.run(scenario())


def test_what_was_found_meanwhile_is_not_overwritten_by_a_late_unclear_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        core, launcher, starting = await start_until_sbatch(site_config(tmp_path))
        session = core.row()
        launcher.scheduler.submit(f"berth-{session.id}", comment=f"berth:{session.id}:1")
        await core.reconciler.tick()
        found = core.row()
        assert (found.state, found.job.job_id) == (SessionState.QUEUED, 1)

        launcher.then = LauncherError(
            "timed-out", "the launcher's child process exceeded its time limit and was killed"
        )
        launcher.let_go.set()
        await starting
        await core.tick()
        assert core.row().job.job_id == 1
        assert core.row().reason == ""
        assert len(core.live_jobs(session)) == 1

    asyncio.run(scenario())


def test_a_stop_before_sbatch_means_no_sbatch(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path)
        image = core.stores.find("base")
        session = core.registry.create(
            make_session(state=SessionState.SUBMITTING, digest=image.digest), EventEntry("alice", "start")
        )
        await core.sessions.stop("alice", "dev")
        after = await core.submitter.submit(session)
        assert after.state is SessionState.STOPPING
        assert core.launcher.submissions() == 0
        await core.tick()
        assert core.row().state is SessionState.STOPPED

    asyncio.run(scenario())


def test_a_stop_during_sbatch_cancels_the_job(tmp_path: Path) -> None:
    async def scenario() -> None:
        core, launcher, starting = await start_until_sbatch(site_config(tmp_path))
        await core.sessions.stop("alice", "dev")
        launcher.let_go.set()
        view = await starting
        assert (view.state, view.job_id) == (SessionState.STOPPING, 1)
        await core.tick()
        await core.tick()
        assert core.row().state is SessionState.STOPPED
        assert core.live_jobs(core.row()) == {}

    asyncio.run(scenario())


def test_whoever_waits_hears_of_an_attempt_that_ended_late(tmp_path: Path) -> None:
    async def scenario() -> None:
        core, launcher, starting = await start_until_sbatch(site_config(tmp_path))
        waiting = asyncio.create_task(core.sessions.show("alice", "dev", after=core.row().revision, wait=60))
        await asyncio.sleep(0)
        launcher.let_go.set()
        async with asyncio.timeout(DEADLINE_S):
            assert (await waiting).job_id == 1
            await starting

    asyncio.run(scenario())


def test_a_registry_that_is_locked_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        core = make(tmp_path)
        real, calls = core.registry.update, []

        def fail_once(*arguments: object) -> object:
            calls.append(arguments)
            if len(calls) == 1:
                cause = OperationalError("UPDATE", {}, Exception("database is locked"))
                raise RegistryError("the registry cannot be used now: database is locked") from cause
            return real(*arguments)  # type: ignore[arg-type]  # passed on as they came

        monkeypatch.setattr(core.registry, "update", fail_once)
        with pytest.raises(RegistryError):
            await core.start()
        assert core.row().state is SessionState.SUBMITTING
        await core.tick()
        assert core.row().job.job_id == 1

    asyncio.run(scenario())


def test_an_image_that_is_gone_or_another_one_is_refused_and_the_session_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path)
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id)
        await core.tick()
        store = Store(core.config.profiles.stores[0])
        store.delete("base", "1")
        with pytest.raises(RefusedError, match="base"):
            await core.start()
        publish(store, content=b"another")
        with pytest.raises(RefusedError, match="was replaced"):
            await core.start()
        assert core.row().state is SessionState.STOPPED
        assert core.launcher.submissions() == 1

    asyncio.run(scenario())


def test_draining_waits_for_sbatch_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        core, launcher, starting = await start_until_sbatch(site_config(tmp_path, slurm={"submit_timeout": 0.01}))
        monkeypatch.setattr("broker.controller.reconcile.submission.DRAIN_MARGIN_S", 0.05)
        async with asyncio.timeout(DEADLINE_S):
            await core.submitter.drain()
        assert core.submitter.under_way(core.row().id)
        monkeypatch.setattr("broker.controller.reconcile.submission.DRAIN_MARGIN_S", 20.0)
        draining = asyncio.create_task(core.submitter.drain())
        await asyncio.sleep(0)
        launcher.let_go.set()
        await draining
        assert core.row().job.job_id == 1
        await starting

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("source", "site", "bound"),
    [
        ("/shared/data", ["/shared"], "/shared/data:/data"),
        ("/shared/data", ["/shared/data:ro"], "/shared/data:/data:ro"),
        ("/shared/database", ["/shared/data"], None),
        ("/shared", ["/shared/data"], None),
        ("/etc", [], None),
    ],
)
def test_only_what_profile_and_site_allow_is_bound(source: str, site: list[str], bound: str | None) -> None:
    text = (
        RECIPE.format(name="base", version="1")
        + f"binds:\n  - source: {source}\n    destination: /data\n    readonly: false\n"
    )
    profile = parse_profile(text, Path("profile.yaml"))
    if bound is None:
        with pytest.raises(RefusedError, match=source):
            allowed_binds(profile, site)
    else:
        assert allowed_binds(profile, site) == [bound]


def replace_host_key(core: Core, session: Session) -> str:
    """Replace the key as the session's owner can, whose file it is; return its public line."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment="mine")
    line = key.export_public_key().decode().strip()
    core.launcher.directories[session.owner, session.id].host_key = line
    return line


def test_replaced_host_key_is_certified_at_the_next_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path)
        session = await core.stopped()
        line = replace_host_key(core, session)
        await core.start()
        session = core.row()
        assert (session.state, session.host_key) == (SessionState.QUEUED, line)
        files = core.launcher.directories["alice", session.id].files
        assert host_key.certified_key(files["host_certificate"]) == PublicKey.parse(line).blob
        assert json.loads(files["manifest.json"])["host_key"] == line
        assert session.job.job_id is not None
        core.scheduler.start(session.job.job_id)
        core.announce(session)
        await core.tick()
        assert core.row().state is SessionState.READY
        events = await core.sessions.events("alice", "dev")
        assert PublicKey.parse(line).fingerprint in next(each.detail for each in events if each.action == "host-key")

    asyncio.run(scenario())


def test_host_key_that_changes_again_and_again_is_refused_in_words(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path)
        session = await core.stopped()
        core.launcher.failures["submit"] = LauncherError("host-key", "the session's host key is not the one")
        with pytest.raises(RefusedError, match="host key"):
            await core.start()
        assert (core.row().state, core.row().id) == (SessionState.STOPPED, session.id)

    asyncio.run(scenario())


def test_key_replaced_in_a_running_session_leaves_it_ready(tmp_path: Path) -> None:
    """Its sshd has the former key and certificate; its successor gets a certificate for the new one."""

    async def scenario() -> None:
        core = make(tmp_path)
        session = await core.ready()
        line = replace_host_key(core, session)
        await core.tick()
        assert core.row().state is SessionState.READY
        await core.resize.resize("alice", "dev", ["--mem=2G"])
        await core.settle()
        session = core.row()
        assert (session.host_key, session.successor) == (line, 2)
        await core.reconciler.tick()
        now = core.row()
        assert (now.state, now.endpoint) == (SessionState.READY, session.endpoint)

    asyncio.run(scenario())


def test_key_replaced_after_submission_is_told_with_the_remedy(tmp_path: Path) -> None:
    """Today's job has no certificate for its key, so no client would believe it; the next start mends it."""

    async def scenario() -> None:
        core = make(tmp_path)
        await core.start()
        session = core.row()
        assert session.job.job_id is not None
        other = PublicKey.parse(replace_host_key(core, session)).fingerprint
        core.scheduler.start(session.job.job_id)
        core.announce(session, fingerprint=other)
        await core.tick()
        view = core.row().view()
        assert view.state is SessionState.STARTING
        assert view.reason.startswith(OTHER_HOST_KEY)
        assert other in view.reason
        assert "`berth stop dev` and start it again" in view.reason
        told = dict(explain_session(view, [], "", time.time()))
        assert told["state"] == view.reason
        assert told["do"].startswith("`berth stop dev`, then `berth start dev`")
        core.scheduler.end(session.job.job_id)
        await core.tick()
        await core.start()
        core.scheduler.start(core.row().job.job_id or 0)
        core.announce(core.row(), fingerprint=other)
        await core.tick()
        assert core.row().state is SessionState.READY

    asyncio.run(scenario())
