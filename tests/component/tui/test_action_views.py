"""The screens of snapshots, texts, logs and outputs of the actions, with keys, and all screens at all sizes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from textual.binding import Binding

from broker import errors
from broker.schema.sessions import JobView
from broker.schema.site import EventView
from broker.schema.volumes import SizeLine, SizeReport
from tests.fakes.cluster import cluster_view, node_view
from tests.fakes.tui_actions import (
    READY,
    STOPPED,
    TREE,
    act,
    changes,
    type_texts,
)
from tests.fakes.tui_feed import NOW, make_view
from tui.app import BerthApp
from tui.core.keys import TAKEN_KEYS
from tui.screens.confirm import ConfirmScreen
from tui.screens.form_screen import FormScreen
from tui.screens.snapshots import SnapshotsScreen
from tui.screens.text_view import LoadedTextScreen, LogScreen, OutputScreen

if TYPE_CHECKING:
    from textual.screen import ModalScreen

    from tests.fakes.controller import ScriptedController
    from tests.fakes.tui_app import TuiTest


def test_the_tree_of_snapshots_and_its_actions(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        controller.snapshots["old"] = list(TREE)
        await test.press("t")
        await test.until_shown("└─ 3")
        assert "├─ 2" in test.text()
        assert "present state" in test.text()
        await test.press("j", "b")
        await test.until_shown("Roll old back to snapshot 2?")
        await test.press("n")
        await test.until(lambda: isinstance(test.app.screen, SnapshotsScreen))
        await test.press("c")
        await test.until(lambda: isinstance(test.app.screen, FormScreen))
        await type_texts(test, new="trial")
        await test.until_shown("$ berth clone old trial --at 2")
        await test.press("escape")
        await test.until(lambda: isinstance(test.app.screen, SnapshotsScreen))
        await test.press("D")
        await test.until_shown("Delete snapshot 2 of old permanently?")
        await test.press(*"old", "enter")
        await test.until(lambda: isinstance(test.app.screen, SnapshotsScreen) and "├─ 2" not in test.text())
        assert changes(controller) == [("DELETE", "/v1/sessions/old/snapshots/2", None)]

    act(controller, scenario, STOPPED)


def test_the_sizes_of_snapshots_are_measured_on_request(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        controller.snapshots["old"] = list(TREE)
        controller.answers["GET /v1/sessions/old/size"] = SizeReport(
            lines=[SizeLine(what="snapshot 2", own=3 * 2**20, total=2**30)], bytes=1, free=1
        )
        await test.press("t")
        await test.until_shown("└─ 3")
        assert "MiB" not in test.text()
        await test.press("u")
        await test.until_shown("3.0 MiB")

    act(controller, scenario, STOPPED)


def test_two_snapshots_are_compared_by_the_command(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        controller.snapshots["old"] = list(TREE)
        await test.press("t")
        await test.until_shown("└─ 3")
        await test.press("j", "j", "space", "k", "f")
        await test.until_shown("$ berth diff old --from 2 --to 3")
        await test.until_shown("ended with exit code")

    act(controller, scenario, STOPPED)


def test_explanation_events_and_history_are_read(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        controller.jobs["dev"] = [JobView(submission=1, job_id=4711, node="gpu01", asked_at=NOW - 100, started_at=NOW)]
        controller.events = [EventView(at=NOW, actor="alice", session="dev", action="start", detail="\x1b[31mred")]
        for key, shown in (("w", "`berth ssh dev` connects"), ("v", "\\x1b[31mred"), ("H", "job 4711 on gpu01")):
            await test.press(key)
            await test.until_shown(shown)
            await test.press("escape")
        await test.press("i")
        await test.until_shown("vscode://vscode-remote/ssh-remote+dev.berth")

    act(controller, scenario, READY)


def test_the_cluster_is_asked_again_only_while_its_screen_is_open(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.action_runner.CLUSTER_S", 0.02)

    def asked() -> int:
        return sum(path == "/v1/cluster" for _, path, _ in controller.asked)

    async def scenario(test: TuiTest) -> None:
        assert asked() == 0
        await test.press("F")
        await test.until_shown("CPUs           |")
        assert "Your waits in the queue, last 24 h" in test.text()
        controller.answers["GET /v1/cluster"] = cluster_view(nodes=[node_view("c9")])
        await test.until_shown("c9  ")
        controller.failures["GET /v1/cluster"] = errors.NotFoundError("no answer of Slurm yet")
        await test.until_shown("no answer of Slurm yet")
        del controller.failures["GET /v1/cluster"]
        await test.until_shown("c9  ")
        await test.press("escape")
        await test.until(lambda: test.app.screen is test.app.main_screen)
        before = asked()
        await test.pilot.pause(0.2)
        assert asked() <= before + 1  # one that was under way

    act(controller, scenario)


def test_a_failed_read_shows_message_and_hint_in_the_screen(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        controller.failures["GET /v1/sessions/dev/events"] = errors.NotFoundError("no session dev", hint="list them")
        await test.press("v")
        await test.until_shown("no session dev. Hint: list them")

    act(controller, scenario, READY)


def test_the_log_is_followed_until_the_job_ends(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.screens.text_view.FOLLOW_S", 0.01)

    async def scenario(test: TuiTest) -> None:
        controller.logs["dev"] = deque(["one\n", "one\ntwo \x1b[31m\n"])
        await test.press("l")
        await test.until_shown("two \\x1b[31m")
        assert test.text().count("one") == 1
        controller.sessions["dev"] = make_view("dev", "stopped")
        await test.until_shown("the job has ended")

    act(controller, scenario, READY)


def test_the_output_of_a_command_is_shown(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        controller.answers["GET /v1/sessions/dev/size"] = SizeReport(
            lines=[SizeLine(what="home", own=2**20, total=2**21, files=7)], bytes=2**21, free=2**30
        )
        await test.press("u")
        await test.until_shown("home")
        await test.until_shown("2.0 MiB in total")
        await test.until_shown("berth size dev: done")

    act(controller, scenario, READY)


OWN_SCREENS = (ConfirmScreen, FormScreen, SnapshotsScreen, LoadedTextScreen, LogScreen, OutputScreen)


@pytest.mark.parametrize("screen", OWN_SCREENS, ids=lambda each: each.__name__)
def test_keys_of_the_actions_screens_are_free_and_do_something(screen: type[ModalScreen[Any]]) -> None:
    bindings = [binding for base in screen.__mro__ for binding in vars(base).get("BINDINGS", ())]
    bindings = [binding for binding in bindings if isinstance(binding, Binding)]
    keys = {key for binding in bindings for key in binding.key.split(",")}
    assert {"escape", "ctrl+c"} <= keys
    assert not TAKEN_KEYS & keys
    for binding in bindings:
        owner, _, name = binding.action.partition("(")[0].rpartition(".")
        assert hasattr(BerthApp if owner == "app" else screen, f"action_{name}"), binding.action


SCREENS: dict[str, tuple[list[str], str]] = {
    "start form": (["n"], "New session"),
    "confirm": (["x"], "Lost: running programs"),
    "snapshots": (["t"], "└─ 3"),
    "explain": (["w"], "`berth ssh dev` connects"),
    "policies": (["p"], "Continue"),
    "cluster": (["F"], "gpu (default): UP"),
}


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (120, 40), (250, 60)], ids=str)
@pytest.mark.parametrize("unicode", [True, False], ids=["unicode", "ascii"])
@pytest.mark.parametrize("name", SCREENS)
def test_every_screen_shows_its_title_and_its_keys_at_every_size(
    controller: ScriptedController, name: str, size: tuple[int, int], unicode: bool
) -> None:
    keys, shown = SCREENS[name]

    async def scenario(test: TuiTest) -> None:
        controller.snapshots["dev"] = list(TREE)
        await test.press(*keys)
        await test.until_shown(shown if unicode else shown.replace("└─", "+-"))
        lines = test.text().splitlines()
        assert len(lines) == size[1]
        assert max(map(len, lines)) <= size[0]
        assert "Esc" in " ".join(lines[-2:])
        if not unicode:
            assert test.text().isascii()

    act(controller, scenario, READY, size=size, unicode=unicode)
