"""The screens of the actions look as in `action_snapshots`; `screen_pictures` says how to write these anew."""

from __future__ import annotations

from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.client.client import Client
from broker.forms.start_form import ProfileChoice
from broker.schema.checks import CheckReport, StartEstimate, SwitchPreview
from broker.schema.connections import ConnectionView
from broker.schema.sessions import JobView, Persistence
from broker.schema.volumes import SizeLine, SizeReport, SnapshotView
from tests.component.tui.screen_pictures import (
    LOOKS,
    SIZES,
    assert_contrast,
    assert_no_picture_is_left_over,
    compare_picture,
)
from tests.fakes.command_line import command_line
from tests.fakes.tui_app import TuiTest, run_tui
from tests.fakes.tui_feed import NOW, make_view
from tui.action_runner import ActionRunner
from tui.catalogue import Catalogue
from tui.core.actions import ACTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fakes.controller import ScriptedController
    from tui.core.settings import TuiSettings

SNAPSHOTS = Path(__file__).parent / "action_snapshots"
DEV = make_view("dev", options=["--gres=gpu:1", "--mem=16G"])
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
        running.connections = [connection()]
        running.terminals = 2
        running.logs["dev"] = deque(["11:00 berth: job 4711 on gpu01\n11:00 berth: sshd listens on port 20001\n"])
        yield running


def snapshot(number: int, home: str, **values: object) -> SnapshotView:
    fields = {"number": number, "at": NOW - 86400 / number, "consistency": "stopped"}
    image = {"profile": "torch", "version": "2.9", "home": home.split()}
    return SnapshotView.model_validate(fields | image | values)


def connection() -> ConnectionView:
    return ConnectionView(
        id="01",
        session="dev",
        user="alice",
        fingerprint="SHA256:abc",
        peer="192.0.2.7:40000",
        gateway="login",
        generation="1.0",
        began_at=NOW - 600,
        seen_at=NOW,
        ended_at=None,
        sent=2**20,
        received=2**24,
        end="",
    )


def take(controller: ScriptedController, screen: str, size: tuple[int, int], settings: TuiSettings) -> tuple[str, str]:
    """Return text and styles of a screen."""
    found: list[tuple[str, str]] = []
    views = [DEV, make_view("old", "stopped")]
    shown = views if screen != "log" else [make_view("dev", "stopped"), views[1]]
    controller.sessions = {view.name: view for view in shown}
    if screen == "switch":
        controller.answers["POST /v1/sessions/dev/check"] = REPORT.model_copy(update={"switch": PREVIEW})
    keys, complete = SCREENS[screen]

    async def scenario(test: TuiTest) -> None:
        await test.press(*keys)
        await test.until(lambda: complete in " ".join(test.text().split()))
        if screen.startswith("start"):
            await test.until(lambda: "free now" in test.text())
        found.append((test.text(), test.styles()))

    runner = ActionRunner(lambda: Client(controller.socket))
    catalogue = Catalogue(ACTIONS, runner.run_action)
    run_tui(scenario, views, size=size, settings=settings, catalogue=catalogue)
    return found[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("screen", SCREENS)
def test_the_actions_screens_look_as_before(
    controller: ScriptedController, screen: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = LOOKS if size == "80x24" else LOOKS[:1]  # the styles do not depend on the size
    path = SNAPSHOTS / f"{screen}-{size}.txt"
    compare_picture(path, partial(take, controller, screen, SIZES[size]), monkeypatch, looks)


def test_no_snapshot_of_an_action_is_left_over() -> None:
    assert_no_picture_is_left_over(SNAPSHOTS, SCREENS)


@pytest.mark.parametrize("path", sorted(SNAPSHOTS.glob("*.txt")), ids=lambda path: path.stem)
def test_every_text_of_an_action_has_aa_contrast(path: Path) -> None:
    assert_contrast(path, blanks=True)
