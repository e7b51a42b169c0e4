"""Operators: the group, their permissions, and what they and the owner see of an act."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from broker.config.settings import Config
from broker.controller.cluster import groups as groups_module
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.end_notice import ending_file
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.access import OPERATOR_PERMISSIONS, is_allowed
from broker.controller.sessions.guest_view import events_for_guest, jobs_for_guest, view_for_user
from broker.errors import BerthError, ConflictError, NotFoundError, RefusedError
from broker.names import check_message
from broker.schema.admin import OperatorExtendRequest
from broker.schema.permissions import Permission
from broker.schema.sessions import SessionState
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.rows import make_session
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

HOUR_S = 3600.0
GROUP = {"group": "@hpc-admins"}
WHY = "new kernel at 18:00"


@pytest.fixture(autouse=True)
def members(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The groups of each user, as the name service has them now: carol is an operator."""
    found = {"carol": {"hpc-admins", "users"}, "bob": {"users"}, "hpc-admins": {"users"}, "alice": {"users"}}
    monkeypatch.setattr(groups_module, "_group_names", lambda user: frozenset(found.get(user, ())))
    monkeypatch.setattr(groups_module, "_has_account", lambda name: name in found)
    return found


def play(place: Path, clock: Clock, scene: Callable[[Core], Awaitable[None]], **settings: object) -> None:
    async def whole() -> None:
        values = {"operators": GROUP, "slurm": {"longest_job": 24 * HOUR_S}} | settings
        async with asyncio.timeout(TEST_DEADLINE_S):
            await scene(Core.make(site_config(place, **values), FakeLauncher(FakeScheduler(now=clock.time))))

    asyncio.run(whole())


async def fails(call: Awaitable[object], kind: type[BerthError]) -> str:
    """Return the message of the call's error."""
    with pytest.raises(kind) as failed:
        await call
    assert failed.value.hint
    return failed.value.message


@pytest.mark.parametrize("permission", list(Permission))
def test_an_operator_has_the_table_and_nothing_else(tmp_path: Path, clock: Clock, permission: Permission) -> None:
    """Also on an own session, and not on the routes of sessions, where an operator is a user as any other."""

    async def scene(core: Core) -> None:
        core.registry.create(make_session("alice"), EventEntry("alice", "start"))
        core.registry.create(make_session("carol"), EventEntry("carol", "start"))
        for owner in ("alice", "carol"):
            asked = core.access.resolve_as_operator("carol", f"{owner}.dev", permission)
            assert is_allowed("carol", make_session(owner), permission, as_operator=True) == (
                permission in OPERATOR_PERMISSIONS
            )
            if permission in OPERATOR_PERMISSIONS:
                assert (await asked).owner == owner
            else:
                await fails(asked, RefusedError)
        await fails(core.access.resolve("carol", "alice.dev", permission), NotFoundError)

    play(tmp_path, clock, scene)


def test_the_table_has_no_content() -> None:
    assert {each.value for each in OPERATOR_PERMISSIONS} == {"see", "stop", "extend", "message"}


SITES: dict[str, tuple[dict[str, object], str]] = {
    "no setting": ({"operators": {}}, "only the site's operators may do this"),
    "another group": ({"operators": {"group": "@admins"}}, "only the site's operators may do this"),
    "personal mode": ({"mode": "personal", "gateway": {"enabled": False}}, "personal mode has no operators"),
    "sharing is off": ({"sharing": {"enabled": False}}, ""),
}


@pytest.mark.parametrize("site", SITES)
def test_the_setting_says_who_is_an_operator(tmp_path: Path, clock: Clock, site: str) -> None:
    settings, refusal = SITES[site]

    async def scene(core: Core) -> None:
        if refusal:
            assert await fails(core.operators.sessions("carol"), RefusedError) == refusal
        else:
            assert (await core.operators.sessions("carol")).sessions == []

    play(tmp_path, clock, scene, **settings)


@pytest.mark.parametrize("user", ["alice", "bob", "root", "hpc-admins", "unknown"])
def test_who_is_no_member_is_no_operator(tmp_path: Path, clock: Clock, user: str) -> None:
    """Neither root, nor the session's owner, nor a user with the group's name."""

    async def scene(core: Core) -> None:
        await core.ready()
        refusals = {
            await fails(call, RefusedError)
            for name in ("alice.dev", "alice.nowhere")
            for call in (
                core.operators.stop(user, name, WHY),
                core.operators.extend(user, name, OperatorExtendRequest(message=WHY, seconds=60)),
                core.operators.message(user, name, WHY),
                core.operators.sessions(user),
                core.operators.drain(user, "c1", WHY),
                core.operators.message_node(user, "c1", WHY),
                core.operators.limits(user, "alice"),
                core.operators.audit(user, owner=None, since=0, limit=1),
            )
        }
        assert refusals == {"only the site's operators may do this"}
        assert core.row().state is SessionState.READY

    play(tmp_path, clock, scene)


def test_membership_is_looked_up_at_each_use_and_a_failure_is_none(
    tmp_path: Path, clock: Clock, members: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> frozenset[str]:
        raise OSError("the directory is down")

    async def scene(core: Core) -> None:
        await core.operators.sessions("carol")
        members["carol"] = {"users"}
        await fails(core.operators.sessions("carol"), RefusedError)
        members["carol"] = {"hpc-admins"}
        await core.operators.sessions("carol")
        monkeypatch.setattr(groups_module, "_group_names", fail)
        await fails(core.operators.sessions("carol"), RefusedError)

    play(tmp_path, clock, scene)


def test_operators_see_all_sessions_without_contents(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        await core.ready("work", "bob")
        await core.stopped("old", "bob")
        secret = {"options": ["--mem=2G", "--account=secret", "--comment=secret"], "reason": "secret"}
        core.registry.update(core.row().id, lambda _: (secret, None))
        listed = (await core.operators.sessions("carol")).sessions
        assert [(each.session, each.state, each.node) for each in listed] == [
            ("alice.dev", "ready", "c1"),
            ("bob.old", "stopped", ""),
            ("bob.work", "ready", "c1"),
        ]
        assert listed[0].options == ["--mem=2G"]
        assert "secret" not in str(listed)
        of_bob = (await core.operators.sessions("carol", owner="bob", node="c1")).sessions
        assert [each.session for each in of_bob] == ["bob.work"]
        assert (await core.operators.sessions("carol", node="c2")).sessions == []

    play(tmp_path, clock, scene)


def test_the_owner_sees_who_stopped_the_session_and_why(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        view = await core.operators.stop("carol", "alice.dev", WHY)
        assert view.state is SessionState.STOPPING
        assert ending_file(core.row()).splitlines()[1] == f"operator carol ends the session: {WHY}"
        for _ in range(2):  # the job is cancelled, and then it has ended
            await core.tick()
        assert core.row().state is SessionState.STOPPED
        assert core.row().reason == f"ended by operator carol: {WHY}"
        events = await core.sessions.events("alice", "dev", connections=False)
        assert ("carol", "operator-stop", WHY) in {(each.actor, each.action, each.detail) for each in events}
        seen = view_for_user("bob", core.row().view())
        jobs = jobs_for_guest("bob", "alice", await core.sessions.jobs("alice", "dev"))
        assert (seen.reason, jobs[0].reason) == ("ended by an operator", "ended by an operator")
        shown = str([seen, jobs, list(events_for_guest("bob", "alice", events))])
        assert WHY not in shown
        assert "carol" not in shown
        assert (await core.sessions.jobs("alice", "dev"))[0].reason == f"ended by operator carol: {WHY}"
        await core.operators.stop("carol", "alice.dev", "again")
        assert "again" not in str(await core.sessions.events("alice", "dev")), "nothing was to be stopped"

    play(tmp_path, clock, scene)


def test_pages_together_have_each_session_once_and_no_read_has_more_than_a_page(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(core: Core) -> None:
        names = sorted(f"{owner}.s{number}" for owner in ("alice", "bob") for number in range(7))
        for name in names:
            owner, _, bare = name.partition(".")
            await (core.ready if int(bare[1:]) % 3 else core.stopped)(bare, owner)
        read, read_sizes = core.async_registry.all_sessions, []

        async def count(*words: Any, **chosen: Any) -> Any:  # noqa: ANN401 - as the registry's
            found = await read(*words, **chosen)
            read_sizes.append(len(found))
            return found

        monkeypatch.setattr(core.async_registry, "all_sessions", count)
        on_node = [name for name in names if int(name[-1]) % 3]
        for limit, node, expected in itertools.product((1, 2, 3, 100), (None, "c1"), (names,)):
            wanted = expected if node is None else on_node
            seen: list[str] = []
            more, after = True, None
            while more:
                page = await core.operators.sessions("carol", node=node, after=after, limit=limit)
                assert len(page.sessions) <= limit
                seen += [each.session for each in page.sessions]
                more, after = page.more, seen[-1]
            assert seen == wanted, (limit, node)
            assert max(read_sizes) <= limit + 1
            read_sizes.clear()
        behind = await core.operators.sessions("carol", after="alice.zzz", limit=1)
        assert [each.session for each in behind.sessions] == ["bob.s0"], "a name that does not exist"
        page = await core.operators.sessions("carol", owner="bob", after="alice.s0", limit=100)
        assert {each.owner for each in page.sessions} == {"bob"}

    play(tmp_path, clock, scene, limits={"sessions": 20})


def test_a_failed_session_keeps_its_failure(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        row = await core.ready()
        failed = {"state": SessionState.FAILED, "reason": "out of memory"}
        core.registry.update(row.id, lambda _: (failed, None))
        assert (await core.operators.stop("carol", "alice.dev", WHY)).state is SessionState.FAILED
        assert core.row().reason == "out of memory"

    play(tmp_path, clock, scene)


def test_an_extension_names_the_operator_and_keeps_the_sites_limit(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        request = OperatorExtendRequest(message=WHY, seconds=HOUR_S)
        before = core.row().job.ends_at
        view = await core.operators.extend("carol", "alice.dev", request)
        assert before is not None
        assert view.ends_at == before + HOUR_S
        event = core.registry.events_of("alice")[-1]
        assert (event.actor, event.action) == ("carol", "operator-extend")
        assert event.detail.endswith(f": {WHY}")
        much = OperatorExtendRequest(message=WHY, seconds=48 * HOUR_S)
        await fails(core.operators.extend("carol", "alice.dev", much), RefusedError)
        await core.stopped("old")
        assert await fails(core.operators.extend("carol", "alice.old", request), ConflictError)

    play(tmp_path, clock, scene)


def test_a_drain_stops_what_has_a_job_on_the_node_and_reports_failures(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        await core.ready("work", "bob")
        await core.ready("odd", "bob")
        await core.stopped("old", "bob")
        broken, update = core.row("odd", "bob").id, core.async_registry.update

        async def update_or_fail(session_id: str, decide: Any) -> Any:  # noqa: ANN401 - as the registry's
            if session_id == broken:
                raise BerthError("the registry cannot be used now", hint="try again")
            return await update(session_id, decide)

        monkeypatch.setattr(core.async_registry, "update", update_or_fail)
        assert (await core.operators.drain("carol", "c2", WHY)).done == []
        report = await core.operators.drain("carol", "c1", WHY)
        assert [each.session for each in report.done] == ["alice.dev", "bob.work"]
        assert [(each.session, each.hint) for each in report.failed] == [("bob.odd", "try again")]
        monkeypatch.undo()
        assert core.row("odd", "bob").state is SessionState.READY
        assert core.row().state is core.row("work", "bob").state is SessionState.STOPPING

    play(tmp_path, clock, scene)


def test_a_drain_leaves_a_session_that_has_left_the_node(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        row = await core.ready()
        sessions = core.access.registry.all_sessions

        async def listed_before_it_moved(owner: str | None = None, **chosen: Any) -> Any:  # noqa: ANN401 - as the registry's
            found = await sessions(owner, **chosen)
            job = core.scheduler.change(row.job.job_id or 0, node="c2")
            assert job.node == "c2"
            await core.tick()
            return found

        core.async_registry.all_sessions = listed_before_it_moved  # type: ignore[method-assign]
        await core.operators.drain("carol", "c1", WHY)
        assert core.row().state is not SessionState.STOPPING

    play(tmp_path, clock, scene)


def test_a_message_is_written_for_the_job_and_recorded(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        await core.stopped("old")
        await core.operators.message("carol", "alice.dev", WHY)
        directory = core.launcher.directories["alice", core.row().id]
        submission, at, text = directory.files["message"].splitlines()
        assert (submission, text) == ("1", f"operator carol: {WHY}")
        assert float(at) == clock.time()
        event = core.registry.events_of("alice", core.row().id)[-1]
        assert (event.actor, event.action, event.detail) == ("carol", "operator-message", WHY)
        await fails(core.operators.message("carol", "alice.old", WHY), ConflictError)
        report = await core.operators.message_node("carol", "c1", "soon")
        assert [each.session for each in report.done] == ["alice.dev"]

    play(tmp_path, clock, scene)


def test_a_message_that_cannot_be_written_is_no_event(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise LauncherError("files", "/shared/berth/alice/secret: no such file")

    async def scene(core: Core) -> None:
        await core.ready()
        monkeypatch.setattr(core.launcher, "install", fail)
        assert "secret" not in await fails(core.operators.message("carol", "alice.dev", WHY), BerthError)
        report = await core.operators.message_node("carol", "c1", WHY)
        assert [each.session for each in report.failed] == ["alice.dev"]
        assert {event.actor for event in core.registry.events_of("alice")} == {"alice", "berth"}

    play(tmp_path, clock, scene)


def test_limits_with_their_use(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        found = await core.operators.limits("carol", "alice")
        assert {each.name: (each.used, each.most) for each in found.limits if each.name != "storage"} == {
            "sessions": (1, 3),
            "gpu_sessions": (0, None),
            "starts_per_hour": (1, 10),
        }
        assert await fails(core.operators.limits("carol", "nobody-knows"), NotFoundError)

    play(tmp_path, clock, scene, limits={"sessions": 3, "starts_per_hour": 10})


def test_the_audit_log_is_bounded_filtered_and_without_words_of_users(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        row = await core.ready("work", "bob")
        at = clock.now
        clock.now += HOUR_S
        for action in ("set", "resize", "snapshot-done", "stopped", "failed", "rename", "clone", "start"):
            core.registry.record(row, EventEntry("bob", action, "secret"))
        core.registry.record(row, EventEntry("carol", "operator-stop", WHY))
        whole = await core.operators.audit("carol", owner=None, since=0, limit=100)
        assert {each.owner for each in whole.events} == {"alice", "bob"}
        assert (whole.more, "secret" in str(whole)) == (False, False)
        assert whole.events[-1].detail == WHY
        late = await core.operators.audit("carol", owner="bob", since=at + 1, limit=100)
        assert len(late.events) == 9
        short = await core.operators.audit("carol", owner="bob", since=0, limit=2)
        assert ([each.action for each in short.events], short.more) == (["start", "operator-stop"], True)

    play(tmp_path, clock, scene)


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "a\x1b[2J", "a\x07", "\u202eabc", "x" * 201, "a\x9bb"])
def test_a_wrong_message_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="one line of 1 to 200 printable characters"):
        check_message(text)


def test_a_message_may_have_letters_of_any_language() -> None:
    assert check_message(" Wartung ab 18 Uhr: Kühlung ") == "Wartung ab 18 Uhr: Kühlung"


@pytest.mark.parametrize("group", ["hpc-admins", "@", "@a b", "@a\n", ""])
def test_the_setting_takes_one_group(group: str) -> None:
    with pytest.raises(ValueError, match="@GROUP"):
        Config.model_validate({"mode": "site", "operators": {"group": group}})
