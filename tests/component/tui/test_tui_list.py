"""The main screen with keys and news: what is drawn, and what is not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from broker.forms.start_form import ProfileChoice
from broker.schema.states import SessionState
from tests.fakes.tui_app import TuiTest, run_tui
from tests.fakes.tui_feed import NOW, DrivenFeed, make_view
from tui.catalogue import Catalogue
from tui.core.actions import ACTIONS, find_action
from tui.core.settings import TuiSettings, load_settings
from tui.screens.small import TOO_SMALL

if TYPE_CHECKING:
    from pathlib import Path

    from textual.geometry import Region

    from broker.schema.sessions import SessionView
    from tui.app import BerthApp
    from tui.core.catalogue_action import CatalogueAction

VIEWS = [
    make_view("dev"),
    make_view("bad", "failed", reason="OUT_OF_MEMORY"),
    make_view("old", "stopped", profile="base"),
    make_view("wait", "queued", reason="Resources", ahead=3),
]


def many(count: int) -> list[SessionView]:
    return [make_view(f"s{number:05}") for number in range(count)]


def test_change_shows_at_once_and_removal_too() -> None:
    async def scenario(test: TuiTest) -> None:
        assert "4 sessions | 1 failed, 1 ready, 1 queued, 1 stopped" in test.text()
        test.feed.change(make_view("old", "starting", revision=2))
        await test.until_shown("old                starting")
        test.feed.change(removed=["id-wait"])
        await test.until(lambda: "wait " not in test.text())

    run_tui(scenario, VIEWS)


def test_status_line_always_names_the_chosen_session() -> None:
    async def scenario(test: TuiTest) -> None:
        for key, name in (("G", "wait"), ("k", "old"), ("g", "bad"), ("j", "dev"), ("down", "old"), ("up", "dev")):
            await test.press(key)
            assert test.app.main_screen.status_line.text.startswith(f"{name}: ")
        test.feed.change(make_view("dev", "failed", reason="NODE_FAIL", revision=2))
        await test.until_shown("dev: failed: NODE_FAIL")

    run_tui(scenario, VIEWS)


def test_filter_works_while_typing_and_escape_removes_it() -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("slash", *"rea")
        assert "filter 'rea' shows 1" in test.text()
        await test.press("d", "enter", "q")
        assert not test.app.is_running or "dev" in test.text()

    run_tui(scenario, VIEWS)


def test_letters_in_the_filter_are_no_keys() -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("slash", *"qjs")
        assert test.app.main_screen.sessions.filter == "qjs"
        assert "no session contains this text" in test.text()
        await test.press("escape")
        assert test.app.main_screen.sessions.shown_count == 4
        await test.press("j")
        assert test.app.main_screen.sessions.chosen == "id-dev"

    run_tui(scenario, VIEWS)


def test_keys_behind_a_slash_that_arrive_with_it_are_the_filter() -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press_at_once("/old: s/x")
        await test.until(lambda: test.app.main_screen.sessions.filter == "old: s/x")
        assert ran == []
        assert not test.app.main_screen.sessions.marks

    ran: list[str] = []
    run_tui(scenario, VIEWS, catalogue=Catalogue(ACTIONS, lambda _app, action, _sessions: ran.append(action.id)))


def test_keys_behind_the_filters_end_that_arrive_with_it_are_for_the_filtered_list() -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press_at_once("/old\rr")
        await test.until(lambda: ran)
        assert ran == [("start", ["old"])]
        assert test.app.main_screen.sessions.filter == "old"
        await test.press_at_once("\x1b/wait\x1bG kr")
        await test.until(lambda: len(ran) == 2)
        assert test.app.main_screen.sessions.filter == ""
        assert ran[1] == ("start", ["wait"])  # the marked one; the chosen one is `old`
        assert test.app.main_screen.status_line.text.startswith("old: ")

    ran: list[tuple[str, list[str]]] = []

    def run(_app: BerthApp, action: CatalogueAction, sessions: list[SessionView]) -> None:
        ran.append((action.id, [view.name for view in sessions]))

    views = [view.model_copy(update={"state": SessionState.STOPPED}) for view in VIEWS]
    run_tui(scenario, views, catalogue=Catalogue((find_action("start"),), run))


def test_keys_behind_a_colon_that_arrive_with_it_search_in_the_palette() -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press_at_once("j:time limit of\r")
        await test.until(lambda: ran)
        assert ran == ["extend"]
        assert test.app.main_screen.status_line.text.startswith("dev: ")

    ran: list[str] = []
    run_tui(scenario, VIEWS, catalogue=Catalogue(ACTIONS, lambda _app, action, _sessions: ran.append(action.id)))


def test_marks_sort_and_groups() -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("space", "j", "space")
        assert "2 marked" in test.text()
        await test.press("o", "O")
        assert "by state, reversed" in test.text()
        await test.press("z")
        assert "stopped (1)" in test.text()
        await test.press("escape")
        assert "marked" not in test.text()

    run_tui(scenario, VIEWS)


def test_choices_are_kept_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tui.json"

    async def scenario(test: TuiTest) -> None:
        await test.press("o", "z", "T", "tab", "C", *"node", "enter")
        assert "NODE/REASON" not in test.text()

    run_tui(scenario, VIEWS, settings_path=path)
    settings, _ = load_settings(path)
    assert (settings.sort, settings.group, settings.theme, settings.detail) == ("state", "state", "dark", False)
    assert "where" not in settings.columns

    async def again(test: TuiTest) -> None:
        assert "NODE/REASON" not in test.text()
        assert "by state" in test.text()

    run_tui(again, VIEWS, settings=settings)


def test_newer_versions_are_read_in_the_background_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.app.PROFILES_S", 0.01)
    reads: list[str] = []

    def read() -> list[ProfileChoice]:
        reads.append("")
        if len(reads) > 1:
            raise OSError("the store is away")
        return [ProfileChoice("torch", "2.10", "site", newest=True), ProfileChoice("base", "2.9", "own", newest=True)]

    async def scenario(test: TuiTest) -> None:
        await test.until(lambda: len(reads) > 2)
        assert re.search(r"^> dev +ready +site +2\.10$", test.text(), re.MULTILINE)
        assert re.search(r"^  old +stopped +own$", test.text(), re.MULTILINE)

    views = [
        make_view("dev", image="/site/torch/2.9/image.sif"),
        make_view("old", "stopped", profile="base", image="/home/alice/profiles/base/2.9/image.sif"),
    ]
    run_tui(scenario, views, settings=TuiSettings(columns=("owner", "newer")), read_profiles=read)


@pytest.mark.parametrize(("width", "shown"), [(119, False), (120, True)])
def test_details_are_beside_the_list_from_120_columns(width: int, shown: bool) -> None:
    async def scenario(test: TuiTest) -> None:
        assert ("host key" in test.text() or "ssh bad.berth" in test.text()) is shown
        await test.press("tab")
        assert "ssh bad.berth" not in test.text()

    run_tui(scenario, VIEWS, size=(width, 24))


def test_enter_shows_all_details() -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("enter")
        assert "ssh bad.berth" in test.text()
        await test.press("q")
        assert "NAME" in test.text()

    run_tui(scenario, VIEWS)


@pytest.mark.parametrize("size", [(59, 24), (80, 14), (20, 5), (1, 1)])
def test_small_window_shows_one_sentence_and_takes_no_key(size: tuple[int, int]) -> None:
    async def scenario(test: TuiTest) -> None:
        assert " ".join(test.text().split())[:20] == TOO_SMALL[:20] or size[0] < 20
        await test.press("j", "space", "question_mark", "s")
        assert not test.app.main_screen.sessions.marks
        await test.pilot.resize_terminal(80, 24)
        await test.until_shown("NAME")
        await test.press("q")
        await test.until(lambda: not test.app.is_running)

    run_tui(scenario, VIEWS, size=size)


def test_small_window_can_be_quit() -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("q")
        await test.until(lambda: not test.app.is_running)

    run_tui(scenario, VIEWS, size=(30, 8))


def test_lost_controller_leaves_the_list_usable_and_actions_refuse() -> None:
    ran: list[str] = []

    def run(_app: BerthApp, action: CatalogueAction, _sessions: list[SessionView]) -> None:
        ran.append(action.id)

    async def scenario(test: TuiTest) -> None:
        await test.press("j", "s")
        assert ran == ["ssh"]
        test.feed.lose()
        await test.until_shown("trying again")
        assert "as of " in test.app.main_screen.title_line.note
        await test.press("s")
        assert "nothing was sent" in test.notices()  # a notice is shown for some seconds
        await test.press("j", "slash", *"old")
        assert ran == ["ssh"]
        assert "old: stopped" in test.text()
        test.feed.sessions["id-old"] = make_view("old", "ready", revision=5)
        test.feed.reachable = True
        test.app.reconnect()
        await test.until_shown("old: ready on gpu01")
        assert test.app.main_screen.title_line.note == ""

    run_tui(scenario, VIEWS, catalogue=Catalogue((find_action("ssh"),), run))


def test_controller_that_is_away_from_the_beginning_is_named() -> None:
    async def scenario(test: TuiTest) -> None:
        await test.until_shown("the controller does not answer at /run/berth/api.sock")
        assert "no sessions yet" not in test.text()
        await test.press("q")
        await test.until(lambda: not test.app.is_running)

    feed = DrivenFeed()
    feed.reachable = False
    run_tui(scenario, feed=feed)


def test_action_that_is_not_allowed_says_why() -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("e")
        assert "bad: it is failed; no job runs" in test.notices()

    run_tui(scenario, VIEWS, catalogue=Catalogue((find_action("extend"),)))


def test_palette_finds_an_action_and_names_its_refusal() -> None:
    ran: list[list[str]] = []

    def run(_app: BerthApp, _action: CatalogueAction, sessions: list[SessionView]) -> None:
        ran.append([view.name for view in sessions])

    async def scenario(test: TuiTest) -> None:
        await test.press("colon", *"time limit")
        assert "e  extend the time limit of the job  (bad: it is failed; no job runs" in test.text()
        await test.press("enter")
        assert not ran
        await test.press("escape", "j", "colon", *"extend", "enter")
        assert ran == [["dev"]]

    run_tui(scenario, VIEWS, catalogue=Catalogue((find_action("extend"),), run))


def test_mouse_chooses_sorts_and_opens() -> None:
    async def scenario(test: TuiTest) -> None:
        await test.pilot.click("SessionTable", offset=(5, 3))
        assert test.app.main_screen.sessions.chosen == "id-old"
        await test.pilot.click("SessionTable", offset=(22, 0))
        assert test.app.main_screen.sessions.sort == "state"
        await test.pilot.click("SessionTable", offset=(5, 1), times=2)
        await test.until_shown("session bad")

    run_tui(scenario, VIEWS)


def test_ten_thousand_rows_scroll_and_a_change_draws_its_cells_only() -> None:
    async def scenario(test: TuiTest) -> None:
        table = test.app.main_screen.table
        await test.press("G")
        assert "s09999" in test.text()
        await test.press("pageup", "g")
        drawn: list[Region] = []
        refresh = table.refresh
        table.refresh = lambda *regions, **options: (drawn.extend(regions), refresh(*regions, **options))[1]  # type: ignore[method-assign, func-returns-value]
        test.feed.change(make_view("s00003", "stopped", revision=2), make_view("s05000", "stopped", revision=2))
        await test.until_shown("s00003             stopped")
        assert drawn
        assert {region.y for region in drawn} == {4}
        assert all(region.width < 40 for region in drawn)

    run_tui(scenario, many(10000))


def test_nothing_is_drawn_while_nothing_changes() -> None:
    """Neither a heartbeat of the clock without a new minute, nor a change of a session out of the window."""

    async def scenario(test: TuiTest) -> None:
        drawn: list[object] = []
        test.app._driver.write = drawn.append  # type: ignore[union-attr, method-assign]
        test.app._tick()
        test.feed.change(make_view("s00500", idle_since=NOW - 60, revision=2))
        await test.until(lambda: test.app.main_screen.sessions.views["id-s00500"].revision == 2)
        await test.pilot.pause(0.2)
        assert not drawn

    run_tui(scenario, many(1000), size=(118, 40))


def test_hostile_fields_reach_no_screen() -> None:
    evil = "\x1b[2J\x1b]0;x\x07\u202e\x9b31mevil\r\n[bold]x[/bold][link"
    fields = {"name": evil, "reason": evil, "profile": evil, "version": evil}
    views = [make_view("a", "queued").model_copy(update=fields), make_view("b", "failed").model_copy(update=fields)]

    async def scenario(test: TuiTest) -> None:
        texts = [test.text()]
        for keys in (["enter"], ["q", "z"], ["z"], ["z", "colon"], ["escape", "slash", "x"]):
            await test.press(*keys)
            texts.append(test.text())
        assert all(text.replace("\n", "").isprintable() for text in texts)
        assert "[bold]x[/bold][link" in texts[1]

    run_tui(scenario, views, size=(200, 40), catalogue=Catalogue((find_action("ssh"),)))


def test_fault_is_kept_for_the_log_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    apps: list[BerthApp] = []

    async def scenario(test: TuiTest) -> None:
        apps.append(test.app)
        test.app.main_screen.table._placed = None  # type: ignore[assignment]
        test.app.main_screen.table.refresh()
        await test.until(lambda: not test.app.is_running)

    with pytest.raises(TypeError):
        run_tui(scenario, VIEWS)
    assert "TypeError" in apps[0].failure
    assert capsys.readouterr() == ("", "")


def test_theme_of_the_settings_is_used() -> None:
    async def scenario(test: TuiTest) -> None:
        assert test.app.theme == "berth-light"
        assert "#1a1f24 on #ffffff" in test.styles()

    run_tui(scenario, VIEWS, settings=TuiSettings(theme="light"))
