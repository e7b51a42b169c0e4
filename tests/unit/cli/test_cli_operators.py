"""`berth admin`: the commands of the site's operators."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from broker import errors
from broker.schema.admin import (
    AuditEvent,
    AuditReport,
    LimitUse,
    NodeReport,
    OperatorSessionList,
    OperatorSessionView,
    SessionFailure,
    UserLimits,
)
from broker.schema.sessions import SessionState
from tests.fakes.command_line import run
from tests.fakes.controller import CREATED

if TYPE_CHECKING:
    from tests.fakes.controller import ScriptedController

WHY = ("-m", "new kernel at 18:00")
LATER = 4e9


def operated(
    name: str = "alice.dev", state: SessionState = SessionState.READY, **values: object
) -> OperatorSessionView:
    owner, _, bare = name.rpartition(".")
    fields = {"session": name, "owner": owner, "name": bare, "state": state, "created_at": CREATED}
    return OperatorSessionView.model_validate(fields | {"node": "c1", "job_id": 7, "options": ["--mem=2G"]} | values)


@pytest.fixture
def operators(controller: ScriptedController) -> ScriptedController:
    """A controller for which the caller is an operator, with two sessions on c1."""
    sessions = [operated(ends_at=LATER), operated("bob.work", stale_since=CREATED)]
    stopping = operated(state=SessionState.STOPPING)
    controller.answers |= {
        "GET /v1/admin/sessions": OperatorSessionList(sessions=sessions),
        "POST /v1/admin/sessions/alice.dev/stop": stopping,
        "POST /v1/admin/sessions/bob.work/stop": stopping.model_copy(update={"session": "bob.work"}),
        "POST /v1/admin/sessions/alice.dev/message": operated(),
        "POST /v1/admin/sessions/alice.dev/extend": operated(ends_at=LATER),
        "POST /v1/admin/nodes/c1/message": NodeReport(node="c1", done=sessions),
        "POST /v1/admin/nodes/c1/drain": NodeReport(node="c1", done=[stopping]),
    }
    return controller


def test_list_has_a_line_for_each_session(operators: ScriptedController) -> None:
    lines = [line.split() for line in run("admin", "list").stdout.splitlines()]
    assert lines[0] == ["SESSION", "STATE", "NODE", "JOB", "RESOURCES", "TIME", "LEFT"]
    assert lines[1][:5] == ["alice.dev", "ready", "c1", "7", "--mem=2G"]
    assert lines[2] == ["bob.work", "ready?", "c1", "7", "--mem=2G"]
    shown = json.loads(run("admin", "list", "--user", "alice", "--node", "c1", "--json").stdout)["sessions"]
    assert [each["session"] for each in shown] == ["alice.dev", "bob.work"]
    assert operators.asked[-1][1] == "/v1/admin/sessions?owner&node&limit"
    operators.answers["GET /v1/admin/sessions"] = OperatorSessionList(sessions=[])
    assert run("admin", "list").stderr == "There is no such session.\n"


def test_list_names_the_command_for_the_next_page(operators: ScriptedController) -> None:
    operators.answers["GET /v1/admin/sessions"] = OperatorSessionList(sessions=[operated()], more=True)
    result = run("admin", "list", "--node", "c1", "--limit", "1", "--after", "alice.about")
    assert operators.asked[-1][1] == "/v1/admin/sessions?node&after&limit"
    command = "berth admin list --node c1 --limit 1 --after alice.dev"
    assert result.stderr == f"There are more: `{command}` lists the next ones.\n"
    assert json.loads(run("admin", "list", "--json").stdout)["more"] is True
    assert "`berth admin list --after alice.dev`" in run("admin", "list").stderr


def test_stop_sends_the_reason(operators: ScriptedController) -> None:
    result = run("admin", "stop", "alice.dev", *WHY)
    assert (result.exit_code, result.stdout.split()[6:9]) == (0, ["LEFT", "alice.dev", "stopping"])
    assert operators.asked[-1][2] == {"message": WHY[1]}


def test_stop_of_several_reports_each_failure(operators: ScriptedController) -> None:
    operators.failures["POST /v1/admin/sessions/alice.dev/stop"] = errors.NotFoundError("gone", hint="look")
    result = run("admin", "stop", "alice.dev", "bob.work", *WHY)
    assert result.exit_code == 3
    assert "berth: alice.dev: gone\n  hint: look\n" in result.stderr
    assert "1 of 2 sessions failed" in result.stderr
    assert "bob.work" in result.stdout


def test_extend(operators: ScriptedController) -> None:
    result = run("admin", "extend", "alice.dev", "4h", *WHY)
    assert "alice.dev: the job ends at " in result.stderr
    assert operators.asked[-1][2] == {"message": WHY[1], "seconds": 14400.0}
    assert json.loads(run("admin", "extend", "alice.dev", "4h", *WHY, "--json").stdout)["session"] == "alice.dev"


def test_message_to_sessions_or_a_node(operators: ScriptedController) -> None:
    assert run("admin", "message", "alice.dev", *WHY).exit_code == 0
    result = run("admin", "message", "--node", "c1", *WHY)
    assert result.stderr.splitlines() == ["alice.dev got the message", "bob.work got the message"]
    assert operators.asked[-1][1:] == ("/v1/admin/nodes/c1/message", {"message": WHY[1]})


def test_drain_lists_asks_and_stops(operators: ScriptedController) -> None:
    assert "bob.work" in run("admin", "drain", "c1", "--list").stdout
    refused = run("admin", "drain", "c1", *WHY)
    assert (refused.exit_code, "nothing was stopped" in refused.stderr) == (2, True)
    assert not [asked for asked in operators.asked if asked[0] == "POST"]
    result = run("admin", "drain", "c1", *WHY, "--yes")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (0, "alice.dev is stopping, or has stopped")
    assert "`berth admin list --node c1` shows" in result.stderr


def test_drain_of_an_empty_node_stops_nothing(operators: ScriptedController) -> None:
    operators.answers["GET /v1/admin/sessions"] = OperatorSessionList(sessions=[])
    assert run("admin", "drain", "c1", *WHY, "--yes").exit_code == 0
    assert not [asked for asked in operators.asked if asked[0] == "POST"]


def test_drain_lists_what_failed_with_the_remedy(operators: ScriptedController) -> None:
    failure = SessionFailure(session="bob.work", message="the registry cannot be used now", hint="try again")
    operators.answers["POST /v1/admin/nodes/c1/drain"] = NodeReport(node="c1", done=[operated()], failed=[failure])
    result = run("admin", "drain", "c1", *WHY, "--yes")
    assert result.exit_code == 1
    assert "berth: bob.work: the registry cannot be used now\n  hint: try again\n" in result.stderr
    assert "1 of 2 sessions failed" in result.stderr
    result = run("admin", "drain", "c1", *WHY, "--yes", "--json")
    assert json.loads(result.stdout)["failed"][0]["session"] == "bob.work"
    assert json.loads(result.stderr)["error"]["exit_code"] == 1


def test_limits(operators: ScriptedController) -> None:
    uses = [LimitUse(name="sessions", used=2, most=3), LimitUse(name="storage", used=None, most=2**30)]
    operators.answers["GET /v1/admin/users/alice/limits"] = UserLimits(
        user="alice", limits=[*uses, LimitUse(name="starts_per_hour", used=1, most=None)]
    )
    lines = run("admin", "limits", "alice").stdout.splitlines()
    assert lines[1].split() == ["sessions", "2", "3"]
    assert lines[2].split() == ["storage", "unknown", "1.0", "GiB"]
    assert lines[3].split() == ["starts_per_hour", "1", "no", "limit"]
    assert json.loads(run("admin", "limits", "alice", "--json").stdout)["user"] == "alice"


def test_audit(operators: ScriptedController) -> None:
    event = AuditEvent(at=CREATED, actor="carol", owner="alice", session="dev", action="operator-stop", detail="why")
    operators.answers["GET /v1/admin/events"] = AuditReport(events=[event], more=True)
    result = run("admin", "audit", "--user", "alice", "--since", "2h", "--limit", "1")
    assert result.stdout.splitlines()[1].split()[-4:] == ["alice.dev", "carol", "operator-stop", "why"]
    assert "There are earlier events" in result.stderr
    assert operators.asked[-1][1] == "/v1/admin/events?owner&since&limit"
    assert json.loads(run("admin", "audit", "--json").stdout)["more"] is True


@pytest.mark.parametrize(
    "words",
    [
        ("stop", "alice.dev"),
        ("stop", *WHY),
        ("stop", "dev", *WHY),
        ("stop", "alice.dev.berth", *WHY),
        ("stop", "alice.dev", "-m", ""),
        ("stop", "alice.dev", "-m", "a\nb"),
        ("stop", "alice.dev", "-m", "\x1b[2J"),
        ("stop", "alice.dev", "-m", "x" * 201),
        ("extend", "alice.dev", "0", *WHY),
        ("message", *WHY),
        ("message", "alice.dev", "--node", "c1", *WHY),
        ("drain", "c1"),
        ("drain", "c1", "--list", *WHY),
        ("drain", "c[1-4]", *WHY),
        ("limits", "@devs"),
        ("audit", "--limit", "0"),
        ("audit", "--limit", "10001"),
        ("audit", "--since", "2999-01-01"),
        ("audit", "--since", "yesterday"),
        ("list", "--user", "a b"),
        ("list", "--limit", "0"),
        ("list", "--limit", "1001"),
        ("list", "--after", "dev"),
        ("list", "--after", "alice."),
    ],
)
def test_wrong_words_are_refused_before_any_request(operators: ScriptedController, words: tuple[str, ...]) -> None:
    assert run("admin", *words).exit_code == 2
    assert operators.asked == []


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("stop", "alice.dev", *WHY),
        ("extend", "alice.dev", "1h", *WHY),
        ("message", "alice.dev", *WHY),
        ("drain", "c1", *WHY, "--yes"),
        ("limits", "alice"),
        ("audit",),
    ],
)
def test_who_is_no_operator_and_personal_mode_get_the_controllers_answer(
    controller: ScriptedController, words: tuple[str, ...]
) -> None:
    refusal = errors.RefusedError("personal mode has no operators", hint="operators need site mode")
    paths = ["sessions", "nodes/c1/drain", "users/alice/limits", "events"]
    paths += [f"sessions/alice.dev/{verb}" for verb in ("stop", "extend", "message")]
    controller.failures |= {f"{method} /v1/admin/{path}": refusal for path in paths for method in ("GET", "POST")}
    result = run("admin", *words)
    assert result.exit_code == 4
    assert result.stderr == "berth: personal mode has no operators\n  hint: operators need site mode\n"
