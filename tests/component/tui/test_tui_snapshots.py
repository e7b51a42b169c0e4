"""The screens of the list look as in `snapshots`; `screen_pictures` says how to write them again."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.forms.start_form import ProfileChoice
from tests.component.tui.screen_pictures import SIZES, assert_contrast, assert_no_picture_is_left_over, compare_picture
from tests.fakes.tui_app import TuiTest, run_tui
from tests.fakes.tui_feed import NOW, make_view
from tests.short_form import pairs
from tui.catalogue import Catalogue
from tui.core.actions import find_action

if TYPE_CHECKING:
    from tui.core.settings import TuiSettings

SNAPSHOTS = Path(__file__).parent / "snapshots"
SCREENS = {
    "list": [],
    "marks": ["space", "j", "space", "z"],
    "filter": ["slash", *"torch"],
    "details": ["j", "enter"],
    "bars": ["j", "j", "j", "enter"],
    "help": ["question_mark"],
    "actions": ["colon"],
    "columns": ["C"],
    "lost": ["j"],
}
"""Names of screens, and the keys that lead to them."""

PROFILES = [ProfileChoice("torch", "2.10", "site", newest=True), ProfileChoice("base", "1", "own", newest=True)]
VIEWS = [
    make_view(
        "dev",
        image="/site/torch/2.9/image.sif",
        gpu_idle_since=NOW - 7200,
        idle_since=NOW - 3600,
        idle_stop_at=NOW + 1800,
        idle="4h",
    ),
    make_view(
        "train", clients=["192.0.2.7", "198.51.100.20"], ends_at=NOW + 300, continuation="always", next_job_id=4712
    ),
    make_view("wait", "queued", reason="Resources", ahead=3, expected_start_at=NOW + 3600),
    make_view("bad", "failed", reason="out of memory", outcome="OUT_OF_MEMORY", ended_at=NOW - 60),
    make_view("old", "stopped", profile="base", version="1", image="/home/alice/profiles/base/1/image.sif"),
    make_view("begin", "starting"),
    make_view("a-name-that-is-longer-than-its-column", stale_since=NOW - 300, node_condition="draining"),
]


def take(screen: str, size: tuple[int, int], settings: TuiSettings) -> tuple[str, str]:
    """Return text and styles of a screen."""
    found: list[tuple[str, str]] = []

    async def scenario(test: TuiTest) -> None:
        await test.until(lambda: test.app.site.newest and not test.app.main_screen.title_line.note)
        if screen == "lost":
            test.feed.lose()
            await test.until_shown("as of ")
        await test.press(*SCREENS[screen])
        found.append((test.text(), test.styles()))

    catalogue = Catalogue((find_action("ssh"),))
    run_tui(scenario, VIEWS, size=size, settings=settings, catalogue=catalogue, read_profiles=lambda: PROFILES)
    return found[0]


@pytest.mark.parametrize(("screen", "size"), pairs(SCREENS, SIZES))
def test_screens_look_as_before(screen: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare_picture(SNAPSHOTS / f"{screen}-{size}.txt", partial(take, screen, SIZES[size]), monkeypatch)


def test_no_snapshot_is_left_over() -> None:
    assert_no_picture_is_left_over(SNAPSHOTS, SCREENS)


@pytest.mark.parametrize("path", sorted(SNAPSHOTS.glob("*.txt")), ids=lambda path: path.stem)
def test_every_text_on_every_screen_has_aa_contrast(path: Path) -> None:
    assert_contrast(path)


def test_no_color_has_no_color() -> None:
    for path in SNAPSHOTS.glob("*.txt"):
        picture = path.read_text(encoding="utf-8").partition("== no-color ==")[2]
        styles = re.findall(r"^\w: (.+)$", picture, re.MULTILINE)
        assert styles
        assert not [style for style in styles if not re.match(r"default( on default|$)", style)], path.name
