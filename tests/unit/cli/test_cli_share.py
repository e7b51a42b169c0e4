"""`berth share`, `unshare`, `shares`, `leave` and `list --shared`, and the commands of a guest."""

from __future__ import annotations

import json

import pytest

from broker import errors
from broker.controller.sessions.access import ENTRY_ROLES
from broker.errors import ExitCode
from broker.schema.connections import ConnectionList, GuestVisitView
from broker.schema.grants import (
    EndedGrants,
    GrantList,
    GrantView,
    LeftOutEntry,
    Role,
    SharedAmount,
    SharedContent,
    SharedList,
    SharedService,
    SharedSession,
    SharedSnapshot,
)
from broker.schema.sessions import SessionState
from broker.schema.site import EventView
from tests.fakes.command_line import run
from tests.fakes.controller import CREATED, ScriptedController, operation, posted, ready, view
from tests.fakes.tui_feed import make_connection

pytestmark = pytest.mark.usefixtures("dev")

BOB = GrantView(session="dev", grantee="bob", role=Role.OPERATE, granted_at=CREATED)
GROUP = GrantView(session="dev", grantee="@devs", role=Role.OPERATE, until=CREATED + 60, granted_at=CREATED)
BOARD = GrantView(session="dev", grantee="bob", role=Role.PORT, service="board", granted_at=CREATED)
LATER = 4e9
THREE = GrantView(session="dev", grantee="bob", role=Role.SNAPSHOT, granted_at=CREATED, snapshot=3)
CONTENT = SharedContent(
    included={"home": SharedAmount(files=2, bytes=2**20), "system": SharedAmount(files=0, bytes=0)},
    left_out=[LeftOutEntry(volume="home", path=".ssh/", reason="ssh keys and their like")],
    reasons={"ssh keys and their like": 1},
)


def shared(name: str = "alice.dev", **values: object) -> SharedSession:
    return SharedSession(session=ready(name, **values), role=Role.OPERATE, until=LATER, via="@devs")


@pytest.fixture
def guest(controller: ScriptedController) -> None:
    """Let the controller answer a guest of alice's session: under its full name."""
    controller.sessions["alice.dev"] = ready("alice.dev")


@pytest.mark.parametrize(("grantee", "path"), [("bob", "bob"), ("@devs", "%40devs")])
def test_share_requests_the_role_and_says_so(controller: ScriptedController, grantee: str, path: str) -> None:
    controller.answers[f"PUT /v1/sessions/dev/grants/{path}"] = BOB.model_copy(update={"grantee": grantee})
    result = run("share", "dev", grantee, "--role", "operate")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"dev is shared with {grantee}, role operate\n"
    assert controller.asked[-1][2] == {"role": "operate", "until": None, "snapshot": None, "service": None}


def test_share_until_a_time(controller: ScriptedController) -> None:
    controller.answers["PUT /v1/sessions/dev/grants/bob"] = BOB.model_copy(update={"until": LATER})
    result = run("share", "dev", "bob", "--role", "operate", "--until", "4h")
    assert ", until 20" in result.stderr
    assert controller.asked[-1][2]["until"] > CREATED


def test_share_as_json(controller: ScriptedController) -> None:
    controller.answers["PUT /v1/sessions/dev/grants/bob"] = BOB
    result = run("share", "dev", "bob", "--role", "operate", "--json")
    assert json.loads(result.stdout) == BOB.model_dump(mode="json")
    assert result.stderr == ""


def test_a_role_that_the_site_has_not_has_the_controllers_message(controller: ScriptedController) -> None:
    controller.failures["PUT /v1/sessions/dev/grants/bob"] = errors.RefusedError(
        "this site does not have the role pair", hint="roles of this site: operate"
    )
    result = run("share", "dev", "bob", "--role", "pair")
    assert result.exit_code == 4
    assert "this site does not have the role pair" in result.stderr


def test_the_role_use_is_shared_after_a_question(controller: ScriptedController) -> None:
    controller.answers["PUT /v1/sessions/dev/grants/bob"] = BOB.model_copy(update={"role": Role.USE})
    refused = run("share", "dev", "bob", "--role", "use")
    assert (refused.exit_code, [asked[0] for asked in controller.asked if asked[0] != "GET"]) == (2, [])
    assert "dev was not shared" in refused.stderr
    shown = run("share", "dev", "bob", "--role", "use", "--yes")
    assert shown.stderr == "dev is shared with bob, role use\n"


def test_unshare(controller: ScriptedController) -> None:
    controller.answers["DELETE /v1/sessions/dev/grants/bob"] = EndedGrants(grants=[BOB])
    assert run("unshare", "dev", "bob").stderr == "dev is no longer shared with bob\n"
    assert json.loads(run("unshare", "dev", "bob", "--json").stdout)["grants"][0]["grantee"] == "bob"
    controller.answers["DELETE /v1/sessions/dev/grants/bob"] = EndedGrants(grants=[THREE])
    lines = run("unshare", "dev", "bob", "--snapshot", "3").stderr.splitlines()
    assert lines[0] == "snapshot 3 of dev is no longer shared with bob"
    assert "stay with those who cloned them" in lines[1]


def test_a_snapshot_is_shared_after_a_list_and_a_question(controller: ScriptedController) -> None:
    controller.answers["GET /v1/sessions/dev/snapshots/3/shared"] = CONTENT
    controller.answers["PUT /v1/sessions/dev/grants/bob"] = THREE
    refused = run("share", "dev", "bob", "--snapshot", "3")
    assert (refused.exit_code, [asked[0] for asked in controller.asked if asked[0] != "GET"]) == (2, [])
    assert "~/.ssh/" in refused.stdout
    shown = run("share", "dev", "bob", "--snapshot", "3", "--yes")
    assert "bob gets 2 files" in shown.stderr
    assert shown.stderr.splitlines()[-1] == "snapshot 3 of dev is shared with bob"
    assert controller.asked[-1][2] == {"role": "snapshot", "until": None, "snapshot": "3", "service": None}


def test_a_dry_run_shares_nothing(controller: ScriptedController) -> None:
    controller.answers["GET /v1/sessions/dev/snapshots/3/shared"] = CONTENT
    result = run("share", "dev", "bob", "--snapshot", "3", "--dry-run", "--json")
    assert json.loads(result.stdout) == CONTENT.model_dump(mode="json")
    assert [asked[0] for asked in controller.asked if asked[0] != "GET"] == []


@pytest.mark.usefixtures("guest")
def test_a_clone_of_another_users_snapshot(controller: ScriptedController) -> None:
    making = view("mine", SessionState.CHANGING, operation=operation("clone"))
    controller.script["mine"] += [making, view("mine", operation=operation("clone", "done"))]
    result = run("clone", "alice.dev", "mine", "--at", "3")
    assert result.stderr.splitlines()[-1] == "mine was created; `berth start mine` starts it"
    assert not [asked for asked in controller.asked if asked[:2] == ("GET", "/v1/sessions/alice.dev")]


def test_a_service_is_shared_and_taken_back(controller: ScriptedController) -> None:
    controller.answers["PUT /v1/sessions/dev/grants/bob"] = BOARD
    result = run("share", "dev", "bob", "--role", "port", "--service", "board")
    assert result.stderr == "board of dev is shared with bob\n"
    assert controller.asked[-1][2] == {"role": "port", "service": "board", "until": None, "snapshot": None}
    controller.answers["DELETE /v1/sessions/dev/grants/bob"] = EndedGrants(grants=[BOARD], closed=False)
    result = run("unshare", "dev", "bob", "--service", "board")
    assert result.exit_code == ExitCode.FAILED
    assert result.stderr.startswith("board of dev is no longer shared with bob\n")
    assert "connections that are open may last for up to a minute" in result.stderr
    assert run("unshare", "dev", "bob", "--json").exit_code == ExitCode.FAILED
    result = run("unshare", "dev", "bob", "--service", "board")
    assert controller.asked[-1][1] == "/v1/sessions/dev/grants/bob?service"
    controller.answers["DELETE /v1/shared/alice.dev"] = EndedGrants(grants=[BOARD])
    assert run("leave", "alice.dev", "--service", "board").stderr == "you have left board of alice.dev\n"
    for words in (("unshare", "dev", "bob", "--service", "B"), ("leave", "alice.dev", "--service", "")):
        assert run(*words).exit_code == 2


def test_who_names_guests_in_browsers(controller: ScriptedController) -> None:
    guest = GuestVisitView(user="bob", service="board", began_at=CREATED, expires_at=LATER)
    presence = ConnectionList(connections=[], guests=[guest, guest], terminals=0)
    controller.answers["GET /v1/sessions/dev/connections"] = presence
    assert run("who", "dev").stderr.splitlines()[0].startswith("bob (port) has board open in a browser, since ")
    (first, _) = json.loads(run("who", "dev", "--json").stdout)["guests"]
    assert (first["user"], first["role"]) == ("bob", "port")


@pytest.mark.parametrize("role", list(ENTRY_ROLES))
def test_who_shows_the_role_of_each_guest_who_is_in(controller: ScriptedController, role: Role) -> None:
    own = make_connection().model_copy(update={"user": "alice"})
    guest = own.model_copy(update={"user": "bob", "role": role})
    controller.answers["GET /v1/sessions/dev/connections"] = ConnectionList(connections=[own, guest], terminals=0)
    shown = [line.split()[:2] for line in run("who", "dev").stdout.splitlines()]
    assert shown == [["WHO", "ROLE"], ["alice", "-"], ["bob", role.value]]
    found = json.loads(run("who", "dev", "--json").stdout)["connections"]
    assert [each["role"] for each in found] == [None, role.value]


def test_shares_lists_the_grants_also_expired_ones(controller: ScriptedController) -> None:
    controller.answers["GET /v1/grants"] = GrantList(
        grants=[BOB, GROUP.model_copy(update={"until": 1.0}), GROUP.model_copy(update={"until": LATER}), BOARD]
    )
    lines = run("shares").stdout.splitlines()
    assert lines[0].split() == ["NAME", "WITH", "ROLE", "SINCE", "UNTIL"]
    assert lines[1].split()[:3] == ["dev", "bob", "operate"]
    assert lines[4].split()[:4] == ["dev", "bob", "port", "board"]
    assert lines[2].endswith("(expired)")
    assert not lines[3].endswith("(expired)")


def test_shares_of_one_session(controller: ScriptedController) -> None:
    controller.answers["GET /v1/sessions/dev/grants"] = GrantList(grants=[])
    assert run("shares", "dev").stderr == "dev is not shared.\n"
    assert json.loads(run("shares", "dev", "--json").stdout) == {"grants": []}


def test_leave(controller: ScriptedController) -> None:
    controller.answers["DELETE /v1/shared/alice.dev"] = EndedGrants(grants=[BOB])
    assert run("leave", "alice.dev").stderr == "you have left alice.dev\n"
    assert json.loads(run("leave", "alice.dev", "--json").stdout)["grants"][0]["grantee"] == "bob"


def test_list_of_shared_sessions(controller: ScriptedController) -> None:
    controller.answers["GET /v1/shared"] = SharedList(sessions=[shared()])
    lines = run("list", "--shared").stdout.splitlines()
    assert lines[0].endswith("SHARED WITH")
    assert lines[1].split()[:2] == ["alice.dev", "ready"]
    assert lines[1].split()[-1] == "@devs"
    assert run("list", "--shared", "-o", "name").stdout == "alice.dev\n"
    assert json.loads(run("list", "--shared", "--json").stdout)["sessions"][0]["via"] == "@devs"
    offered = SharedSnapshot(session="carol.dev", snapshot=3, until=None, via="bob")
    controller.answers["GET /v1/shared"] = SharedList(sessions=[], snapshots=[offered])
    result = run("list", "--shared")
    assert result.stdout.splitlines()[1].split() == ["carol.dev", "3", "bob"]
    assert "berth clone carol.dev NEW --at 3" in result.stderr
    service = SharedService(session="carol.dev", service="board", host="x", is_open=True, until=LATER, via="bob")
    controller.answers["GET /v1/shared"] = SharedList(sessions=[], services=[service])
    lines = run("list", "--shared").stdout.splitlines()
    assert lines[0].split()[:3] == ["NAME", "SERVICE", "STATE"]
    assert lines[1].split()[:3] == ["carol.dev", "board", "ready"]
    assert run("list", "--shared", "-o", "name").stdout == "carol.dev\n"
    assert json.loads(run("list", "--shared", "--json").stdout)["services"][0]["service"] == "board"
    controller.answers["GET /v1/shared"] = SharedList(sessions=[])
    assert run("list", "--shared").stderr == "No session of others is shared with you.\n"


@pytest.mark.parametrize("words", [("dev",), ("--state", "ready"), ("--deleted",)])
def test_list_of_shared_sessions_takes_no_selection(words: tuple[str, ...]) -> None:
    assert run("list", "--shared", *words).exit_code == 2


@pytest.mark.usefixtures("guest")
def test_a_guest_stops_under_the_full_name(controller: ScriptedController) -> None:
    controller.script["alice.dev"] += [view("alice.dev", SessionState.STOPPING), view("alice.dev")]
    result = run("stop", "alice.dev")
    assert result.stderr.splitlines()[-1] == "alice.dev is stopped; its files are kept"
    assert posted(controller) == [("/v1/sessions/alice.dev/stop", None)]


@pytest.mark.usefixtures("guest")
def test_a_guest_who_starts_gets_no_login_command(controller: ScriptedController) -> None:
    controller.sessions["alice.dev"] = view("alice.dev")
    controller.script["alice.dev"] += [view("alice.dev", SessionState.QUEUED), ready("alice.dev")]
    result = run("start", "alice.dev")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "alice.dev is ready on c2" in result.stderr


@pytest.mark.usefixtures("guest")
def test_a_guest_extends_and_takes_a_snapshot(controller: ScriptedController) -> None:
    assert run("extend", "alice.dev", "4h").exit_code == 0
    done = operation("snapshot", "done", message="took snapshot 3", snapshot=3)
    controller.script["alice.dev"] += [
        ready("alice.dev", operation=operation("snapshot")),
        ready("alice.dev", operation=done),
    ]
    result = run("snapshot", "alice.dev", "before")
    assert result.stderr.splitlines()[-1] == "alice.dev: took snapshot 3"
    assert not any("snapshots" in path for method, path, _ in controller.asked if method == "GET")


@pytest.mark.usefixtures("guest")
def test_a_guest_reads_state_log_events_and_jobs(controller: ScriptedController) -> None:
    controller.logs["alice.dev"].append("sshd listens\n")
    controller.events = [EventView(at=CREATED, actor="bob", session="alice.dev", action="stop")]
    assert run("show", "alice.dev").stdout.startswith("alice.dev\n")
    assert run("logs", "alice.dev").stdout == "sshd listens\n"
    assert "bob" in run("events", "alice.dev").stdout
    assert run("history", "alice.dev").exit_code == 0
    assert run("explain", "alice.dev").exit_code == 0


@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize(
    "words",
    [
        ("show", "alice.dev", "--watch"),
        ("delete", "alice.dev", "--yes"),
        ("rollback", "alice.dev", "1", "--yes"),
        ("switch", "alice.dev", "base", "--yes"),
        ("clone", "alice.dev", "mine"),
        ("rename", "alice.dev", "mine"),
        ("resize", "alice.dev", "--mem=1G"),
        ("restart", "alice.dev"),
        ("set", "alice.dev", "--idle", "8h"),
        ("snapshots", "alice.dev"),
        ("diff", "alice.dev"),
        ("size", "alice.dev"),
        ("who", "alice.dev"),
        ("shares", "alice.dev"),
        ("unshare", "alice.dev", "carol"),
    ],
)
def test_other_commands_are_for_own_sessions(controller: ScriptedController, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2
    assert [asked for asked in controller.asked if asked[0] != "GET"] == []


@pytest.mark.parametrize("name", ["dev.berth", "alice.dev.berth", "Alice.dev", "alice.", ".dev", "al ice.dev"])
def test_a_wrong_full_name_is_refused_before_any_request(controller: ScriptedController, name: str) -> None:
    assert run("show", name).exit_code == 2
    assert controller.asked == []
