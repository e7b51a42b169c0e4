"""Keys that arrive early or together: they go to the form or the question for which they were typed, or nowhere."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from textual import events
from textual.widgets import Input

from broker.client.client import Client
from tests.deadlines import DEADLINE_S
from tests.fakes.tui_actions import READY, act, changes, notified, type_texts
from tui.screens.confirm import ConfirmScreen
from tui.screens.form_screen import FormScreen

if TYPE_CHECKING:
    from broker.schema.checks import CheckReport, CheckRequest
    from tests.fakes.controller import ScriptedController
    from tests.fakes.tui_app import TuiTest


def test_no_key_agrees_before_the_question_is_shown(controller: ScriptedController) -> None:
    checked = threading.Event()

    async def scenario(test: TuiTest) -> None:
        await test.press("R")
        await test.until(lambda: isinstance(test.app.screen, ConfirmScreen))
        await test.press("y")
        assert isinstance(test.app.screen, ConfirmScreen)
        checked.set()
        await test.until_shown("End all programs in dev?")
        await test.press("n")
        assert changes(controller) == []

    class SlowClient(Client):
        def check(self, name: str, request: CheckRequest) -> CheckReport:
            checked.wait(DEADLINE_S)
            return super().check(name, request)

    act(controller, scenario, READY, client=SlowClient)


def test_keys_typed_ahead_of_a_question_answer_nothing(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press_at_once("xyyy")
        await test.until_shown("Stop dev?")
        assert changes(controller) == []
        assert test.app.clipboard == ""
        question = test.app.screen
        assert isinstance(question, ConfirmScreen)
        await test.until(lambda: question._is_painted)
        await test.press("y")
        await test.until(lambda: changes(controller) == [("POST", "/v1/sessions/dev/stop", None)])

    act(controller, scenario, READY)


def test_keys_typed_ahead_go_to_the_form(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press_at_once("nxDy")
        await test.until(lambda: isinstance(test.app.screen, FormScreen))
        await test.until(lambda: test.app.screen.query_one("#field-name", Input).value == "xDy")
        await test.press("escape")
        await test.until(lambda: test.app.screen is test.app.main_screen)
        assert changes(controller) == []
        assert test.app.clipboard == ""

    act(controller, scenario, READY)


def test_text_after_a_tab_that_arrives_with_it_is_in_the_next_field(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("n")
        await test.until(lambda: isinstance(test.app.focused, Input))
        for key in ("a", "b", "tab", "c", "d", "enter"):
            test.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await test.until_shown("there is no profile cd")
        assert "is required" not in test.text()
        assert test.app.screen.focused is test.app.screen.query_one("#field-profile")
        screen = test.app.screen
        assert isinstance(screen, FormScreen)
        assert (screen.form.text("name"), screen.form.text("profile")) == ("ab", "cd")

    act(controller, scenario, READY)


def test_the_command_line_is_copied_with_f2(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("e")
        await test.press("f2")
        assert test.app.clipboard == ""
        await type_texts(test, time="4h")
        await test.press("f2")
        assert test.app.clipboard == "berth extend dev 4h"
        await test.press("escape", "y")
        assert test.app.clipboard == "ssh dev.berth"

    act(controller, scenario, READY)


def test_a_resize_that_waits_is_cancelled_at_one_key(controller: ScriptedController) -> None:
    waiting = READY.model_copy(update={"resizing": True, "beside": True, "next_job_id": 8})

    async def scenario(test: TuiTest) -> None:
        await test.press("K")
        await notified(test, "dev keeps job")
        assert changes(controller) == [("DELETE", "/v1/sessions/dev/resize", None)]

    act(controller, scenario, waiting)


def test_without_a_resize_that_waits_the_key_says_so(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("K")
        await notified(test, "no resize of it waits")
        assert changes(controller) == []

    act(controller, scenario, READY)
