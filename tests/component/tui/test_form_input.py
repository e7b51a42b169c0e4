"""Bad input in every field of every form, typed on its screen: it is refused in place, and nothing is sent."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from textual.widgets import Input, Static

from tests.fakes.tui_actions import READY, STOPPED, act
from tests.fakes.tui_feed import make_view
from tui.core.actions import ACTIONS, find_action
from tui.screens.form_screen import NO_COMMAND, FormScreen
from tui.widgets.choice_field import ChoiceField

if TYPE_CHECKING:
    from tests.fakes.controller import ScriptedController
    from tests.fakes.tui_app import TuiTest

_RESOURCES = {
    "gpus": ("two", "is neither a number of GPUs"),
    "cpus": ("1.5", "is not a number of CPUs"),
    "memory": ("lots", "'lots' is not a size"),
    "time": ("soon", "is not a length of time"),
    "partition": ("a b", "characters that no name in Slurm has"),
    "account": ("a b", "characters that no name in Slurm has"),
    "qos": ("a b", "characters that no name in Slurm has"),
    "node": ("c1 c2", "characters that no name in Slurm has"),
    "options": ("--gress=gpu:1", "did you mean --gres?"),
}
_SNAPSHOT = ("a b", "neither a snapshot's number nor a label")
_ONE_OBJECT = {"service": ("My_App", "is not the name of a service"), "snapshot": _SNAPSHOT}
_GRANTEE = ("a b", "neither a user's name nor @GROUP")

BAD_TEXTS: dict[str, dict[str, tuple[str, str]]] = {
    "new": {
        "name": ("My_Dev", "try 'my-dev'"),
        "profile": ("basic", "there is no profile basic"),
        **_RESOURCES,
        "keep": ("opt/cache", "is neither `home`, `system`, nor a path"),
        "fresh": ("/a:b", "is neither `home`, `system`, nor a path"),
    },
    "stop-at": {"at": ("yesterday", "is not a time such as 18:00")},
    "extend": {"time": ("9999d", "is longer than")},
    "resize": _RESOURCES,
    "policies": {
        "wait": ("long", "or default"),
        "continue": ("sometimes", "always, never, default"),
        "idle": ("90s", "whole number of minutes"),
    },
    "rename": {"new": ("Thesis", "try 'thesis'")},
    "snapshot": {"label": ("3", "cannot be a label")},
    "rollback": {"snapshot": _SNAPSHOT},
    "switch": {"profile": ("a@b@c", "is not a version")},
    "clone": {"new": ("-x", "is an option"), "snapshot": _SNAPSHOT, "profile": ("Base", "cannot be a name")},
    "restore": {"name": ("lost", "is not a deleted session"), "as": ("A", "cannot be a name")},
    "commit": {"profile": ("tools", "the version of tools is missing"), "snapshot": _SNAPSHOT},
    "exec": {"command": ("'", "is not completed")},
    "diff": {"from": _SNAPSHOT, "to": _SNAPSHOT},
    "share": {"grantee": _GRANTEE, **_ONE_OBJECT, "until": ("yesterday", "is not a time such as 18:00")},
    "unshare": {"grantee": _GRANTEE, **_ONE_OBJECT},
    "leave": {"name": ("dev", "is not OWNER.NAME"), **_ONE_OBJECT},
}
"""Action → field → a text that is wrong there, and a part of the reason. Fields of fixed choices have no wrong text."""

WITH_FORM = [action.id for action in ACTIONS if action.make_form is not None]


@pytest.mark.parametrize("action_id", WITH_FORM)
def test_bad_text_is_refused_in_its_field_and_nothing_is_sent(controller: ScriptedController, action_id: str) -> None:
    action = find_action(action_id)
    session = STOPPED if action.refusal(STOPPED) is None and action.refusal(READY) is not None else READY
    controller.deleted = {"gone": make_view("gone", "deleted")}

    async def scenario(test: TuiTest) -> None:
        await test.press(action.key)
        await test.until(lambda: isinstance(test.app.screen, FormScreen))
        screen, texts = test.app.screen, BAD_TEXTS[action_id]
        assert isinstance(screen, FormScreen)
        fixed = {str(editor.id).removeprefix("field-") for editor in screen.query(ChoiceField)}
        assert fixed | texts.keys() == {field.id for field in screen.form.fields}
        for field_id in fixed:
            before = screen.form.text(field_id)
            await type_text(test, field_id, "bad")
            assert screen.form.text(field_id) == before
        for field_id, (text, reason) in texts.items():
            await type_text(test, field_id, text)
            await test.press("enter")
            error = screen.query_one(f"#error-{field_id}", Static)
            await test.until(partial(shows, error, reason))
            assert test.app.screen is screen
            assert NO_COMMAND in test.text()
            screen.query_one(f"#field-{field_id}", Input).value = ""
            await test.pilot.pause()
        assert [each for each in controller.asked if each[0] != "GET"] == []

    act(controller, scenario, session)


async def type_text(test: TuiTest, field_id: str, text: str) -> None:
    """Go to a field, and type."""
    test.app.screen.set_focus(test.app.screen.query_one(f"#field-{field_id}"))
    await test.press(*text)


def shows(error: Static, reason: str) -> bool:
    return bool(error.display) and reason in str(error.render())


def test_every_form_is_tested() -> None:
    assert BAD_TEXTS.keys() == set(WITH_FORM)
