"""Guests of one service: what opens for them, what ends it, and what the owner sees."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from broker.controller import clock
from broker.controller.cluster import groups as groups_module
from broker.controller.web import visits as visits_module
from broker.errors import BerthError, ConflictError, InvalidInputError, NotFoundError, RefusedError
from broker.origins import service_label
from broker.schema.grants import ShareRequest
from broker.schema.states import SessionState
from broker.schema.web import DoorRequest, LinkRequest, Target, VisitCheck, VisitRequest
from broker.ssh.certificates import UserCertificate, guest_principals
from profiles.image.store import Store
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.berth_web import FakeBerthWeb
from tests.fakes.core import Core, publish, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler
from tests.unit.controller.web.browser_of import SOURCES, UID, browser_of, visit, web_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.fakes.core import Clock

SERVICES = (
    "services:\n"
    "  - {name: board, command: exec board}\n"
    "  - {name: notes, command: exec notes}\n"
    "  - {name: terminal, command: exec ttyd, shell: true}\n"
)
BOARD = VisitRequest(target=Target(session="alice.dev", service="board"))
PORT = ShareRequest(role="port", service="board")
HOST = "board--dev--alice.apps.example.org"
BOTH = {"roles": ["operate", "port"]}


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The groups of each user, as the name service has them now; every user and group exists."""
    found: dict[str, set[str]] = {}
    monkeypatch.setattr(groups_module, "_group_names", lambda user: frozenset(found.get(user, ())))
    monkeypatch.setattr(groups_module, "_has_account", lambda name: "gone" not in found.get(name, ()))
    return found


@pytest.fixture
def core(tmp_path: Path, members: dict[str, set[str]]) -> Iterator[Core]:
    """A site with web access and the role `port`, and alice's ready session with a board, notes and a terminal."""
    del members
    with tempfile.TemporaryDirectory(prefix="berth-") as runtime:
        web = {"url": "https://apps.example.org", "runtime_dir": Path(runtime) / "web", "source_addresses": SOURCES}

        async def make() -> Core:
            made = Core.make(site_config(tmp_path, web=web, sharing=BOTH), FakeLauncher(FakeScheduler()))
            publish(Store(made.config.profiles.stores[0]), version="2", extra=SERVICES)
            await made.ready()
            return made

        yield asyncio.run(make())


async def is_refused(core: Core, request: VisitRequest, user: str = "bob") -> bool:
    try:
        await visit(core, request, user)
    except (NotFoundError, RefusedError):
        return True
    return False


def add_service(core: Core, text: str) -> None:
    """Let the session report services of alice's own files."""
    files = core.launcher.directories["alice", core.row().id].files
    files["listed"] = f"{core.row().generation}\nberth-services 1\nfile {len(text)} mine.yaml\n{text}"


def test_guest_opens_the_shared_service_by_name_and_by_host(core: Core, clock: Clock) -> None:
    async def scenario() -> None:
        for request in (BOARD, VisitRequest(host=HOST)):
            assert await is_refused(core, request)
        until = clock.now + 600
        await core.shares.share("alice", "dev", "bob", PORT.model_copy(update={"until": until}))
        for request in (BOARD, VisitRequest(host=HOST)):
            answer = await visit(core, request, "bob")
            assert (answer.user, answer.owner, answer.session, answer.service) == ("bob", "alice", "dev", "board")
            assert (answer.host, answer.expires_at) == (HOST, until)
            assert await is_refused(core, request, "carol")
        for service in ("notes", "terminal", "none", "port-8000"):
            assert await is_refused(core, VisitRequest(target=Target(session="alice.dev", service=service)))
            assert await is_refused(core, VisitRequest(host=HOST.replace("board", service)))
        (shared,) = (await core.shares.shared_list("bob")).services
        assert (shared.session, shared.service, shared.host, shared.is_open) == ("alice.dev", "board", HOST, True)
        assert (await core.shares.shared_list("bob")).sessions == []
        assert (await core.shares.shared_list("carol")).services == []

    asyncio.run(scenario())


def test_guest_finds_a_service_by_its_hashed_host(core: Core) -> None:
    async def scenario() -> None:
        view = await core.start("dev-")
        request = VisitRequest(host=f"{service_label('board', 'dev-', view.id, 'alice')}.apps.example.org")
        assert await is_refused(core, request)
        await core.shares.share("alice", "dev-", "bob", PORT)
        assert (await visit(core, request, "bob")).session == "dev-"
        assert await is_refused(core, request, "carol")

    asyncio.run(scenario())


def test_grants_of_services_stand_beside_each_other_and_another_role(core: Core) -> None:
    async def scenario() -> None:
        notes = PORT.model_copy(update={"service": "notes"})
        for request in (PORT, notes, ShareRequest(role="operate"), PORT):
            await core.shares.share("alice", "dev", "bob", request)
        held = [(grant.role, grant.service) for grant in await core.shares.all("alice", "dev")]
        assert held == [("port", "notes"), ("operate", None), ("port", "board")]
        ended = await core.shares.unshare("alice", "dev", "bob", service="notes")
        assert [grant.service for grant in ended.grants] == ["notes"]
        assert not await is_refused(core, BOARD)
        assert len((await core.shares.leave("bob", "alice.dev", service="board")).grants) == 1
        assert await is_refused(core, BOARD)
        assert (await core.sessions.show("bob", "alice.dev")).name == "dev", "the other role stays"
        await core.shares.share("alice", "dev", "bob", PORT)
        assert len((await core.shares.unshare("alice", "dev", "bob")).grants) == 2
        shares = core.shares
        for call in (shares.unshare("alice", "dev", "bob", service="board"), shares.leave("bob", "alice.dev")):
            with pytest.raises(NotFoundError):
                await call
        actions = [(event.actor, event.action, event.detail) for event in await core.sessions.events("alice", "dev")]
        assert ("alice", "share", "with bob as port of board") in actions
        assert ("bob", "leave", "with bob as port of board") in actions

    asyncio.run(scenario())


WRONG: dict[str, tuple[dict[str, Any], type[BerthError], str]] = {
    "no service": ({"role": "port"}, InvalidInputError, "for one service"),
    "a service with another role": (
        {"role": "operate", "service": "board"},
        InvalidInputError,
        "no other, is for one service",
    ),
    "a shell": ({"role": "port", "service": "terminal"}, RefusedError, "terminal of dev is a shell"),
    "an unknown service": ({"role": "port", "service": "bord"}, NotFoundError, "dev has no service bord"),
    "port 0": ({"role": "port", "service": "port-0"}, NotFoundError, "dev has no service port-0"),
    "no role": ({"role": "pilot"}, InvalidInputError, "the role pilot does not exist"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_share_of_a_service_is_refused_and_changes_nothing(core: Core, case: str) -> None:
    body, kind, words = WRONG[case]

    async def scenario() -> None:
        with pytest.raises(kind, match=words):
            await core.shares.share("alice", "dev", "bob", ShareRequest(**body))
        assert core.row().grants == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"sharing": {}}, "does not have the role port"), ({"sharing": BOTH, "web": {}}, "no web access")],
)
def test_site_without_the_role_or_without_web_access_refuses_it(
    core: Core, settings: dict[str, object], words: str
) -> None:
    async def scenario() -> None:
        await core.shares.share("alice", "dev", "bob", PORT)
        core.registry.close()
        web = core.config.web.model_dump(exclude_defaults=True)
        other = Core.make(site_config(core.config.state_dir.parent, **{"web": web} | settings), core.launcher)
        with pytest.raises(RefusedError, match=words):
            await other.shares.share("alice", "dev", "carol", PORT)
        assert (await other.shares.shared_list("bob")).services == [], "an earlier grant gives nothing"
        assert other.web is None or await is_refused(other, BOARD)

    asyncio.run(scenario())


def test_added_service_and_port_are_shared_and_shells_are_not(core: Core) -> None:
    async def scenario() -> None:
        await core.shares.share("alice", "dev", "bob", ShareRequest(role="port", service="port-8000"))
        port = VisitRequest(target=Target(session="alice.dev", service="port-8000"))
        with pytest.raises(NotFoundError, match=r"alice.dev has no service port-8000 now"):
            await visit(core, port, "bob")
        add_service(core, "services: [{name: mine, command: exec mine}, {name: board, command: x, shell: true}]")
        await core.shares.share("alice", "dev", "bob", ShareRequest(role="port", service="mine"))
        assert not await is_refused(core, VisitRequest(target=Target(session="alice.dev", service="mine")))
        with pytest.raises(RefusedError, match="is a shell"):
            await core.shares.share("alice", "dev", "bob", PORT)
        block = "name=port-8000\ncommand=relay\nsocket=port-8000.sock\n\n"
        core.launcher.directories["alice", core.row().id].files["listed"] = (
            f"{core.row().generation}\nberth-services 1\npublished {len(block)} -\n{block}"
        )
        assert not await is_refused(core, port)

    asyncio.run(scenario())


def test_service_that_has_become_a_shell_opens_no_more(core: Core) -> None:
    async def scenario() -> None:
        await core.shares.share("alice", "dev", "bob", PORT)
        assert not await is_refused(core, BOARD)
        add_service(core, "services: [{name: board, command: exec ttyd, shell: true}]")
        with pytest.raises(RefusedError, match=r"board of alice.dev is a shell now"):
            await visit(core, BOARD, "bob")

    asyncio.run(scenario())


def test_guest_starts_no_session_and_learns_its_state_only(core: Core) -> None:
    async def scenario() -> None:
        await core.shares.share("alice", "dev", "bob", PORT)
        core.registry.update(core.row().id, lambda _: ({"state": SessionState.STOPPED, "reason": "secret"}, None))
        browsers = web_of(core).browsers
        link = LinkRequest(target=BOARD.target)
        for call in (visit(core, BOARD, "bob"), browsers.make_link("bob", UID, link)):
            with pytest.raises(ConflictError) as refusal:
                await call
            assert refusal.value.message == "alice.dev does not run"
            assert refusal.value.hint == "alice can start it; opening board does not"
        assert not ((await core.shares.shared_list("bob")).services)[0].is_open
        with pytest.raises(NotFoundError):
            await browsers.make_link("carol", UID, link)
        assert core.row().state is SessionState.STOPPED
        assert core.launcher.submissions() == 1

    asyncio.run(scenario())


async def lose_account(core: Core, members: dict[str, set[str]]) -> None:
    members["bob"].add("gone")
    await web_of(core).guests.end_refused()


async def lose_group(core: Core, members: dict[str, set[str]]) -> None:
    members["bob"].clear()
    await web_of(core).guests.end_refused()


def test_guest_learns_no_reason_why_definitions_cannot_be_read(core: Core) -> None:
    async def scenario() -> None:
        await core.shares.share("alice", "dev", "bob", PORT)
        core.registry.update(core.row().id, lambda _: ({"digest": "sha256:secret"}, None))
        with pytest.raises(ConflictError, match=r"^board of alice.dev cannot be opened now$"):
            await visit(core, BOARD, "bob")

    asyncio.run(scenario())


CAUSES: dict[str, Callable[[Core, dict[str, set[str]]], Awaitable[Any]]] = {
    "unshare": lambda core, _: core.shares.unshare("alice", "dev", "bob"),
    "unshare the service": lambda core, _: core.shares.unshare("alice", "dev", "bob", service="board"),
    "leave": lambda core, _: core.shares.leave("bob", "alice.dev"),
    "a shorter time": lambda core, _: core.shares.share(
        "alice", "dev", "bob", PORT.model_copy(update={"until": clock.now() + 5})
    ),
    "unshare the group": lambda core, _: core.shares.unshare("alice", "dev", "@devs"),
    "the group loses a member": lose_group,
    "the account is deleted": lose_account,
}
"""What ends a visit of bob's, which begins by a grant to him, or to his group where the cause names it."""


@pytest.mark.parametrize("cause", CAUSES)
def test_visit_of_a_guest_is_closed_before_the_revocation_is_acknowledged(
    core: Core, members: dict[str, set[str]], cause: str
) -> None:
    async def scenario() -> None:
        members["bob"], fake = {"devs"}, FakeBerthWeb()
        await core.shares.share("alice", "dev", "@devs" if "group" in cause else "bob", PORT)
        await core.shares.share("alice", "dev", "carol", PORT)
        async with asyncio.timeout(TEST_DEADLINE_S), fake.listening(core.config.web_control_socket):
            ended = [await visit(core, BOARD, "bob") for _ in range(2)]
            own = VisitRequest(target=Target(session="dev", service="board"))
            stay = [await visit(core, BOARD, "carol"), await visit(core, own)]
            await CAUSES[cause](core, members)
            assert {each for message in fake.closed for each in message.visit_ids} == {each.id for each in ended}
            asked = VisitCheck(visit_ids=[each.id for each in (*ended, *stay)])
            valid = (await web_of(core).visits.check(asked)).visit_ids
            assert sorted(valid) == sorted(each.id for each in stay)
            for each in ended:
                with pytest.raises(NotFoundError, match="this visit has ended"):
                    await web_of(core).visits.require(each.secret)

    asyncio.run(scenario())


def test_revocation_that_berth_web_does_not_confirm_says_so(core: Core) -> None:
    async def scenario() -> None:
        await core.shares.share("alice", "dev", "bob", PORT)
        opened = await visit(core, BOARD, "bob")
        assert not (await core.shares.unshare("alice", "dev", "bob")).closed
        assert (await web_of(core).visits.check(VisitCheck(visit_ids=[opened.id]))).visit_ids == []

    asyncio.run(scenario())


def test_revocation_while_a_visit_begins_counts(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        await core.shares.share("alice", "dev", "bob", PORT)
        browser, fake = await browser_of(core, "bob"), FakeBerthWeb()

        def revoke_meanwhile() -> str:
            core.registry.update(core.row().id, lambda _: ({"grants": []}, None))
            return "s" * 43

        monkeypatch.setattr(visits_module, "new_secret", revoke_meanwhile)
        async with fake.listening(core.config.web_control_socket):
            with pytest.raises(NotFoundError, match="this visit has ended"):
                await web_of(core).visits.begin(browser, BOARD)
        assert len(fake.closed) == 1
        assert core.registry.guest_visits() == []

    asyncio.run(scenario())


def test_checks_go_on_while_guests_visit(
    core: Core, members: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.controller.web.guest_visits.CHECK_INTERVAL_S", 0.01)

    async def scenario() -> None:
        fake, guests = FakeBerthWeb(), web_of(core).guests
        members["bob"] = {"devs"}
        await core.shares.share("alice", "dev", "@devs", PORT)
        async with asyncio.timeout(TEST_DEADLINE_S), fake.listening(core.config.web_control_socket):
            checking = asyncio.create_task(guests.run())
            await asyncio.sleep(0)
            opened = await visit(core, BOARD, "bob")
            members["bob"].clear()
            await fake.wait_closed(1)
            assert fake.closed[0].visit_ids == [opened.id]
            checking.cancel()

    asyncio.run(scenario())


def test_door_is_for_the_one_service(core: Core) -> None:
    async def scenario() -> None:
        await core.shares.share("alice", "dev", "bob", PORT)
        opened, session = await visit(core, BOARD, "bob"), core.row()
        key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
        door = await web_of(core).door.open(DoorRequest(visit=opened.secret, public_key=key))
        parsed = UserCertificate.parse(asyncssh.import_certificate(door.certificate).public_data)
        assert list(parsed.principals) == guest_principals(session.id, "board")
        assert f"web:{session.id}" not in parsed.principals
        core.registry.update(session.id, lambda _: ({"state": SessionState.QUEUED, "reason": "secret"}, None))
        with pytest.raises(ConflictError) as refusal:
            await web_of(core).door.open(DoorRequest(visit=opened.secret, public_key=key))
        assert refusal.value.message == "alice.dev is not ready"

    asyncio.run(scenario())


def test_owner_sees_guests_by_name_and_each_visit_once(core: Core) -> None:
    async def scenario() -> None:
        await core.shares.share("alice", "dev", "bob", PORT)
        browser = await browser_of(core, "bob")
        for _ in range(2):
            await web_of(core).visits.begin(browser, BOARD)
        guests = await core.connections.guests("alice", "dev")
        assert [(each.user, each.service) for each in guests] == [("bob", "board")]
        events = [(each.actor, each.action, each.detail) for each in await core.sessions.events("alice", "dev")]
        assert events.count(("bob", "visit", "board in a browser")) == 1
        with pytest.raises(RefusedError):
            await core.connections.guests("bob", "alice.dev")
        await web_of(core).browsers.log_out_all("bob")
        assert await core.connections.guests("alice", "dev") == []

    asyncio.run(scenario())
