"""The screens of the actions look as in `action_snapshots`; `screen_pictures` says how to write them again."""

from __future__ import annotations

import importlib
import pkgutil
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from textual.screen import Screen

import tui.screens
from broker.client.client import Client
from broker.forms.start_form import ProfileChoice
from broker.schema.checks import CheckReport, StartEstimate, SwitchPreview
from broker.schema.grants import GrantList, GrantView, Role
from broker.schema.sessions import JobView, Persistence
from broker.schema.site import EventView
from broker.schema.volumes import SizeLine, SizeReport, SnapshotView
from tests.component.tui.screen_pictures import (
    SIZES,
    assert_contrast,
    assert_no_picture_is_left_over,
    compare_picture,
)
from tests.fakes.command_line import command_line
from tests.fakes.tui_app import TuiTest, run_tui
from tests.fakes.tui_feed import NOW, make_connection, make_view
from tests.short_form import pairs
from tui.action_runner import ActionRunner
from tui.catalogue import Catalogue
from tui.core.actions import ACTIONS
from tui.core.settings import TuiSettings
from tui.screens.chooser import ChooserScreen
from tui.screens.sessions import SessionsScreen
from tui.screens.small import SmallScreen
from tui.screens.text_screen import TextScreen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fakes.controller import ScriptedController

SNAPSHOTS = Path(__file__).parent / "action_snapshots"
DEV = make_view("dev", options=["--gres=gpu:1", "--mem=16G"])
LABEL = "before the training"
REPORT = CheckReport(session=DEV, ends_job=True, estimate=StartEstimate(at=NOW + 3600, waiting=2))
PREVIEW = SwitchPreview(
    profile="base",
    version="2",
    description="Debian with git",
    options=["--gres=gpu:1", "--mem=16G", "--time=480"],
    present_options=["--gres=gpu:1", "--mem=16G"],
    persistence=Persistence(system="fresh"),
)

SCREENS: dict[str, tuple[list[str], str]] = {
    "start": (["n", *"trial", "tab", *"torch", "tab", "1", "tab", "tab", *"16GB", "tab", *"8h"], "--time=8:00:00"),
    "start-refused": (["n", *"My_Dev", "tab", *"tarch", "tab", *"two", "enter"], "there is no profile tarch"),
    "policies": (["p", "space", "tab", *"10m"], "--connect-wait 10m"),
    "rollback": (["b", "2", "enter"], "Roll dev back to snapshot 2?"),
    "switch": (["P", *"base", "enter"], "Undo: the result names"),
    "purge": (["j", "colon", *"purge", "enter"], "type the name old"),
    "snapshots": (["t", "j", "space", "u"], "SIZE is what a deletion would free"),
    "explain": (["w"], "`berth ssh dev` connects"),
    "history": (["H"], "job 4711 on gpu01"),
    "connections": (["W"], "192.0.2.7"),
    "log": (["l"], "the job has ended"),
    "cluster": (["F"], "longest 1 h"),
    "links": (["i"], "zed://ssh/dev.berth"),
    "stop": (["x"], "Lost: running programs"),
    "events": (["v"], "before the training"),
    "output": (["u"], "berth size dev: done"),
    "stop-at": (["X"], "Keep until then"),
    "extend": (["e"], "for example 4h"),
    "resize": (["Z"], "free now"),
    "rename": (["j", "N"], "New name"),
    "snapshot": (["S"], "for example before-upgrade"),
    "rollback-form": (["b"], "for example 3 or a label"),
    "switch-form": (["P"], "without a version, the newest"),
    "clone": (["c"], "Start it"),
    "restore": (["U"], "there is none that can be restored"),
    "commit": (["m"], "for example own/tools@1"),
    "exec": (["exclamation_mark"], "for example nvidia-smi"),
    "diff": (["f"], "empty for the profile"),
    "share": (["a"], "for example bob"),
    "shares": (["h"], "bob (pair) is in by ssh"),
    "unshare": (["A"], "for example bob"),
    "leave": (["L"], "for example alice.dev"),
}
"""Names of screens, the keys that lead to them, and the text at which each is complete."""


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    profiles = [
        ProfileChoice("base", "2", "site", "Debian with git", newest=True),
        ProfileChoice("torch", "2.9", "site", "PyTorch with CUDA", newest=True),
    ]
    monkeypatch.setattr("tui.screens.action_forms.read_profiles", lambda: profiles)
    with command_line(monkeypatch, tmp_path) as running:
        running.answers["POST /v1/sessions/dev/check"] = REPORT
        running.answers["GET /v1/sessions/dev/size"] = SizeReport(
            lines=[SizeLine(what=f"snapshot {number}", own=number * 2**28, total=2**31) for number in (1, 2, 3)],
            bytes=2**32,
            free=2**40,
        )
        running.snapshots["dev"] = [
            snapshot(1, "a", label="begin"),
            snapshot(2, "a b", consistency="frozen", pause=0.02),
            snapshot(3, "a c", reason="before the rollback to 1", automatic=True),
        ]
        running.jobs["dev"] = [
            JobView(submission=2, job_id=4711, node="gpu01", asked_at=NOW - 7200, started_at=NOW - 3600, gpus=1),
            JobView(
                submission=1,
                job_id=4700,
                node="gpu02",
                asked_at=NOW - 14400,
                started_at=NOW - 14000,
                ended_at=NOW - 7200,
                outcome="TIMEOUT",
            ),
        ]
        running.connections = [make_connection()]
        running.answers["GET /v1/sessions/dev/grants"] = GrantList(
            grants=[GrantView(session="dev", grantee="bob", role=Role.PAIR, granted_at=NOW - 600)]
        )
        running.events = [EventView(at=NOW, actor="alice", session="dev", action="snapshot", detail=LABEL)]
        running.terminals = 2
        running.logs["dev"] = deque(["11:00 berth: job 4711 on gpu01\n11:00 berth: sshd listens on port 20001\n"])
        yield running


def snapshot(number: int, home: str, **values: object) -> SnapshotView:
    fields = {"number": number, "at": NOW - 86400 / number, "consistency": "stopped"}
    image = {"profile": "torch", "version": "2.9", "home": home.split()}
    return SnapshotView.model_validate(fields | image | values)


def take(
    controller: ScriptedController,
    screen: str,
    size: tuple[int, int],
    settings: TuiSettings,
    shown: set[type[Screen[Any]]] | None = None,
) -> tuple[str, str]:
    """Return text and styles of a screen, and add its class to `shown`."""
    found: list[tuple[str, str]] = []
    views = [DEV, make_view("old", "stopped")]
    known = views if screen != "log" else [make_view("dev", "stopped"), views[1]]
    controller.sessions = {view.name: view for view in known}
    if screen == "switch":
        controller.answers["POST /v1/sessions/dev/check"] = REPORT.model_copy(update={"switch": PREVIEW})
    if screen == "shares":
        controller.connections = [make_connection().model_copy(update={"user": "bob", "role": Role.PAIR})]
    keys, complete = SCREENS[screen]

    async def scenario(test: TuiTest) -> None:
        await test.press(*keys[:1])
        if screen == "snapshots":
            await test.until_shown("begin")  # the tree, in which the other keys move
        await test.press(*keys[1:])
        await test.until(lambda: complete in " ".join(test.text().split()))
        if screen.startswith("start"):
            await test.until(lambda: "free now" in test.text())
        if shown is not None:
            shown.add(type(test.app.screen))
        found.append((test.text(), test.styles()))

    runner = ActionRunner(lambda: Client(controller.socket))
    catalogue = Catalogue(ACTIONS, runner.run_action)
    run_tui(scenario, views, size=size, settings=settings, catalogue=catalogue)
    return found[0]


@pytest.mark.parametrize(("screen", "size"), pairs(SCREENS, SIZES))
def test_the_actions_screens_look_as_before(
    controller: ScriptedController, screen: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare_picture(SNAPSHOTS / f"{screen}-{size}.txt", partial(take, controller, screen, SIZES[size]), monkeypatch)


def test_every_screen_and_every_form_has_snapshots(controller: ScriptedController) -> None:
    """Those of the list, of its chooser and of its texts are in the other folder; a small window has one sentence."""
    shown: set[type[Screen[Any]]] = set()
    for screen in ("start", "stop", "explain", "log", "output", "snapshots"):
        take(controller, screen, SIZES["80x24"], TuiSettings(), shown)
    assert shown | {SessionsScreen, ChooserScreen, TextScreen, SmallScreen} == own_screens()
    titles = {
        (SNAPSHOTS / f"{screen}-80x24.txt").read_text(encoding="utf-8").split(":")[0].split("\n")[0].strip()
        for screen in SCREENS
    }
    assert {action.make_form().title for action in ACTIONS if action.make_form is not None} - titles == set()


def own_screens() -> set[type[Screen[Any]]]:
    """Return the classes of the screens of `tui` that no other one extends."""
    for module in pkgutil.iter_modules(tui.screens.__path__, "tui.screens."):
        importlib.import_module(module.name)
    found, left = set[type[Screen[Any]]](), list[type[Screen[Any]]]([Screen])
    while left:
        each = left.pop()
        below = each.__subclasses__()
        left += below
        if each.__module__.startswith("tui.") and not below:
            found.add(each)
    return found


def test_no_snapshot_of_an_action_is_left_over() -> None:
    assert_no_picture_is_left_over(SNAPSHOTS, SCREENS)


@pytest.mark.parametrize("path", sorted(SNAPSHOTS.glob("*.txt")), ids=lambda path: path.stem)
def test_every_text_of_an_action_has_aa_contrast(path: Path) -> None:
    assert_contrast(path, blanks=True)
