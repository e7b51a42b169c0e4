"""Sharing in the terminal interface: with whom a session is shared, who is in, and what others share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.schema.connections import ConnectionList
from broker.schema.grants import GrantList, GrantView, Role, SharedList, SharedService, SharedSession
from tests.fakes.tui_actions import READY, act, type_texts
from tests.fakes.tui_feed import NOW, make_connection, make_view
from tui.screens.text_view import LoadedTextScreen, OutputScreen

if TYPE_CHECKING:
    from tests.fakes.controller import ScriptedController
    from tests.fakes.tui_app import TuiTest

BOB = GrantView(session="dev", grantee="bob", role=Role.PAIR, granted_at=NOW - 60)
GROUP = GrantView(session="dev", grantee="@physics", role=Role.WATCH, granted_at=NOW - 60, until=NOW - 1)


def test_the_owner_sees_with_whom_and_who_is_in(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.action_runner.SHARING_S", 0.05)

    async def scenario(test: TuiTest) -> None:
        controller.answers["GET /v1/sessions/dev/grants"] = GrantList(grants=[BOB, GROUP])
        own = make_connection().model_copy(update={"user": READY.owner})
        controller.answers["GET /v1/sessions/dev/connections"] = ConnectionList(connections=[own], terminals=1)
        await test.press("h")
        await test.until_shown("No guest is in now.")
        assert "pair" in test.text()
        assert "(expired)" in test.text()
        assert "$ berth shares dev" in test.text()
        guests = [own, make_connection().model_copy(update={"user": "bob", "role": Role.PAIR})]
        controller.answers["GET /v1/sessions/dev/connections"] = ConnectionList(connections=guests, terminals=1)
        await test.until_shown("bob (pair) is in by ssh, since")
        controller.answers["GET /v1/sessions/dev/grants"] = GrantList(grants=[])
        await test.until_shown("This session is not shared.")

    act(controller, scenario, READY)


def test_what_others_share_is_there_without_a_session(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.action_runner.SHARING_S", 0.05)

    async def scenario(test: TuiTest) -> None:
        controller.answers["GET /v1/shared"] = SharedList(sessions=[])
        await test.press("M")
        await test.until_shown("No session of others is shared with you.")
        session = make_view("carol.sim")
        service = SharedService(
            session="carol.sim", service="board", host="board.example", is_open=True, via="@physics"
        )
        controller.answers["GET /v1/shared"] = SharedList(
            sessions=[SharedSession(session=session, role=Role.USE, via="me")], services=[service]
        )
        await test.until_shown("carol.sim")
        await test.until_shown("`berth open carol.sim board` opens it")
        assert "$ berth list --shared" in test.text()
        await test.press("q")
        await test.until(lambda: not isinstance(test.app.screen, LoadedTextScreen))

    act(controller, scenario)


@pytest.mark.parametrize(
    ("key", "texts", "line"),
    [
        ("A", {"grantee": "bob"}, "berth unshare dev bob"),
        ("A", {"grantee": "bob", "service": "board"}, "berth unshare dev bob --service board"),
        ("L", {"name": "carol.sim"}, "berth leave carol.sim"),
    ],
)
def test_the_end_of_an_access_is_the_command(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, key: str, texts: dict[str, str], line: str
) -> None:
    monkeypatch.setattr("tui.screens.text_view.berth_program", lambda command: ["echo", "ran", *command])

    async def scenario(test: TuiTest) -> None:
        await test.press(key)
        await type_texts(test, **texts)
        await test.until_shown(f"$ {line}")
        await test.press("enter")
        await test.until(lambda: isinstance(test.app.screen, OutputScreen))
        await test.until_shown(f"ran {line}")

    act(controller, scenario, READY)


def test_sharing_goes_to_the_terminal_where_the_command_asks(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    monkeypatch.setattr("tui.action_runner.run_in_terminal", lambda _app, _argv, shown: ran.append(shown))

    async def scenario(test: TuiTest) -> None:
        await test.press("a")
        await type_texts(test, grantee="bob", snapshot="3", until="3d")
        await test.press("enter")
        await test.until(lambda: bool(ran))

    act(controller, scenario, READY)
    assert ran == [["berth", "share", "dev", "bob", "--snapshot", "3", "--until", "3d"]]


def test_a_form_that_shares_nothing_or_two_things_is_not_sent(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("a")
        await type_texts(test, grantee="bob")
        await test.press("enter")
        await test.until_shown("choose a role, a service or a snapshot")
        await type_texts(test, service="board", snapshot="3")
        await test.press("enter")
        await test.until_shown("choose a role, a service or a snapshot")

    act(controller, scenario, READY)
