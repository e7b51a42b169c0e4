"""`berth share`, `unshare`, `shares`, `leave` and `list --shared`, and the commands of a guest."""

from __future__ import annotations

import json

import pytest

from broker import errors
from broker.schema.grants import GrantList, GrantView, Role, SharedList, SharedSession
from broker.schema.sessions import SessionState
from broker.schema.site import EventView
from tests.fakes.command_line import run
from tests.fakes.controller import CREATED, ScriptedController, operation, posted, ready, view

pytestmark = pytest.mark.usefixtures("dev")

BOB = GrantView(session="dev", grantee="bob", role=Role.OPERATE, granted_at=CREATED)
GROUP = GrantView(session="dev", grantee="@devs", role=Role.OPERATE, until=CREATED + 60, granted_at=CREATED)
LATER = 4e9


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
    assert controller.asked[-1][2] == {"role": "operate", "until": None}


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


def test_a_role_of_the_future_has_the_controllers_message(controller: ScriptedController) -> None:
    controller.failures["PUT /v1/sessions/dev/grants/bob"] = errors.InvalidInputError(
        "the role watch is planned, but this version of Berth has not got it", hint="roles of this version: operate"
    )
    result = run("share", "dev", "bob", "--role", "watch")
    assert result.exit_code == 2
    assert "this version of Berth has not got it" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("dev", "bob"),
        ("dev", "b ob", "--role", "operate"),
        ("dev", "@", "--role", "operate"),
        ("dev", "-x", "--role", "operate"),
        ("alice.dev", "bob", "--role", "operate"),
        ("dev", "bob", "--role", "operate", "--until", "2001-01-01T00:00"),
        ("dev", "bob", "--role", "op\nerate"),
        ("dev", "bob", "--role", ""),
    ],
)
def test_wrong_words_are_refused_before_any_request(controller: ScriptedController, words: tuple[str, ...]) -> None:
    assert run("share", *words).exit_code == 2
    assert [asked for asked in controller.asked if asked[0] != "GET"] == []


def test_unshare(controller: ScriptedController) -> None:
    controller.answers["DELETE /v1/sessions/dev/grants/bob"] = BOB
    assert run("unshare", "dev", "bob").stderr == "dev is no longer shared with bob\n"
    assert json.loads(run("unshare", "dev", "bob", "--json").stdout)["grantee"] == "bob"


def test_shares_lists_the_grants_also_expired_ones(controller: ScriptedController) -> None:
    controller.answers["GET /v1/grants"] = GrantList(
        grants=[BOB, GROUP.model_copy(update={"until": 1.0}), GROUP.model_copy(update={"until": LATER})]
    )
    lines = run("shares").stdout.splitlines()
    assert lines[0].split() == ["NAME", "WITH", "ROLE", "SINCE", "UNTIL"]
    assert lines[1].split()[:3] == ["dev", "bob", "operate"]
    assert lines[2].endswith("(expired)")
    assert not lines[3].endswith("(expired)")


def test_shares_of_one_session(controller: ScriptedController) -> None:
    controller.answers["GET /v1/sessions/dev/grants"] = GrantList(grants=[])
    assert run("shares", "dev").stderr == "dev is not shared.\n"
    assert json.loads(run("shares", "dev", "--json").stdout) == {"grants": []}


def test_leave(controller: ScriptedController) -> None:
    controller.answers["DELETE /v1/shared/alice.dev"] = shared()
    assert run("leave", "alice.dev").stderr == "you have left alice.dev\n"
    assert json.loads(run("leave", "alice.dev", "--json").stdout)["session"]["name"] == "alice.dev"


def test_list_of_shared_sessions(controller: ScriptedController) -> None:
    controller.answers["GET /v1/shared"] = SharedList(sessions=[shared()])
    lines = run("list", "--shared").stdout.splitlines()
    assert lines[0].endswith("SHARED WITH")
    assert lines[1].split()[:2] == ["alice.dev", "ready"]
    assert lines[1].split()[-1] == "@devs"
    assert run("list", "--shared", "-o", "name").stdout == "alice.dev\n"
    assert json.loads(run("list", "--shared", "--json").stdout)["sessions"][0]["via"] == "@devs"
    controller.answers["GET /v1/shared"] = SharedList(sessions=[])
    assert run("list", "--shared").stderr == "No session of others is shared with you.\n"


@pytest.mark.parametrize("words", [("dev",), ("--state", "ready"), ("--watch",), ("--deleted",)])
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
