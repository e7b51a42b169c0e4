"""Columns, cells, signs, colours, settings and the state of the connection, without a terminal."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import pytest

from broker.client.records import parse_record
from broker.forms.start_form import ProfileChoice
from tests.fakes.tui_feed import NOW, make_view
from tui.ascii_filter import to_ascii
from tui.core import cells
from tui.core.cells import CellContext
from tui.core.columns import ALL_COLUMNS, REQUIRED, place_columns
from tui.core.connection_state import FIRST_RETRY_S, LONGEST_RETRY_S, ConnectionState, Link, ReconnectBackoff
from tui.core.detail import detail_bars, detail_texts
from tui.core.palette import AA_CONTRAST, DARK, LIGHT, Palette, Tone, contrast
from tui.core.session_list import ListState
from tui.core.settings import TuiSettings, load_settings, save_settings
from tui.core.signs import ASCII, UNICODE, draw_bar, takes_unicode
from tui.core.site_facts import SiteFacts, newest_versions
from tui.core.summary import chosen_line, describe_session, title_line

if TYPE_CHECKING:
    from pathlib import Path

    from broker.schema.sessions import SessionView

HOSTILE = "\x1b[2J\x1b]0;title\x07\u202eevil\x9b31m\r\n"


@pytest.mark.parametrize("width", [58, 78, 118, 148, 248])
def test_columns_fit_the_window_and_fill_it(width: int) -> None:
    placed = place_columns(width)
    assert {"name", "state"} <= {each.column.id for each in placed}
    assert placed[-1].start + placed[-1].width == width
    assert all(first.start + first.width < second.start for first, second in itertools.pairwise(placed))


def test_wide_window_shows_all_columns() -> None:
    assert [each.column.id for each in place_columns(248)] == [column.id for column in ALL_COLUMNS]


def test_chosen_columns_are_kept_in_order_and_unknown_ones_ignored() -> None:
    placed = place_columns(200, ("job", "gone-in-this-version", "gpu"))
    assert [each.column.id for each in placed] == [*REQUIRED, "job", "gpu"]


@pytest.mark.parametrize(
    ("column", "view", "expected"),
    [
        ("state", make_view(stale_since=NOW), ("ready?", Tone.GOOD)),
        ("where", make_view(node_condition="draining"), ("gpu01, draining", Tone.WARNING)),
        ("where", make_view(state="failed", reason="OUT_OF_MEMORY"), ("OUT_OF_MEMORY", Tone.ERROR)),
        ("left", make_view(), ("###--- 4 h", Tone.PLAIN)),
        ("left", make_view(ends_at=NOW + 300), ("#----- 5 min", Tone.WARNING)),
        ("left", make_view(state="stopped"), ("", Tone.PLAIN)),
        ("gpu", make_view(gpu_idle_since=NOW - 7300), ("gpu:1 idle 2 h", Tone.WARNING)),
        ("where", make_view(state="queued", ahead=0, expected_start_at=NOW - 5), ("first in line, ~now", Tone.PLAIN)),
        ("where", make_view(state="queued", ahead=12, reason="Priority"), ("12 ahead; Priority", Tone.PLAIN)),
        ("idle", make_view(idle_since=NOW - 3600), ("1 h", Tone.MUTED)),
        ("job", make_view(), ("4711", Tone.MUTED)),
        ("clients", make_view(), ("", Tone.PLAIN)),
        ("clients", make_view(clients=["10.0.0.7"]), ("10.0.0.7", Tone.PLAIN)),
        ("clients", make_view(clients=["fe80::1", "10.0.0.7", ""]), ("fe80::1 +2", Tone.PLAIN)),
        ("clients", make_view(clients=[""]), ("berth ssh", Tone.PLAIN)),
    ],
)
def test_cells_say_it_in_words(column: str, view: SessionView, expected: tuple[str, Tone]) -> None:
    found = next(each for each in ALL_COLUMNS if each.id == column)
    assert found.cell(view, CellContext(NOW, ASCII)) == expected


@pytest.mark.parametrize("field", ["name", "reason", "profile", "version", "interruption", "node_condition"])
def test_no_text_field_brings_a_control_character(field: str) -> None:
    view = make_view("dev", "queued").model_copy(update={field: HOSTILE})
    sessions = ListState()
    sessions.replace([view])
    sessions.set_filter("\x1b")
    site = SiteFacts(newest={("own", view.profile): HOSTILE})
    texts = [column.cell(view, CellContext(NOW, UNICODE, site)).text for column in ALL_COLUMNS]
    texts += [title_line(sessions), chosen_line(sessions, NOW), describe_session(view, NOW)]
    assert all(text.isprintable() for text in texts)


def test_state_of_a_later_version_is_shown_as_it_is() -> None:
    fields = make_view().model_dump(mode="json") | {"state": "hibernating"}
    view = parse_record(json.dumps(fields).encode())
    assert cells.state_cell(view, CellContext(NOW, ASCII)) == ("hibernating", Tone.WARNING)  # type: ignore[arg-type]
    assert describe_session(view, NOW) == "dev: hibernating"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fraction", "bar"),
    [
        (0, "------"),
        (0.001, "#-----"),
        (0.5, "###---"),
        (0.999, "#####-"),
        (1, "######"),
        (7, "######"),
        (-1, "------"),
    ],
)
def test_bar_shows_a_rest_and_a_beginning(fraction: float, bar: str) -> None:
    assert draw_bar(fraction, 6, ASCII) == bar


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm", "LANG": "en_US.UTF-8"}, True),
        ({"TERM": "xterm", "LC_CTYPE": "C.utf8"}, True),
        ({"TERM": "xterm", "LC_CTYPE": "C.UTF-8", "LANG": "C"}, True),
        ({"TERM": "xterm", "LC_ALL": "C", "LANG": "en_US.UTF-8"}, False),
        ({"TERM": "xterm", "LANG": "de_DE.ISO-8859-1"}, False),
        ({"TERM": "xterm"}, False),
        ({"TERM": "linux", "LANG": "en_US.UTF-8"}, False),
        ({"TERM": "dumb", "LANG": "en_US.UTF-8"}, False),
    ],
)
def test_unicode_follows_the_locale_and_the_terminal(environment: dict[str, str], expected: bool) -> None:
    assert takes_unicode(environment) is expected


def test_ascii_text_has_the_same_cells() -> None:
    assert to_ascii("│█░… dev ▲") == "|#.~ dev ^"
    assert to_ascii("日本 é") == "???? ?"


@pytest.mark.parametrize("palette", [DARK, LIGHT], ids=["dark", "light"])
def test_all_texts_have_aa_contrast(palette: Palette) -> None:
    for tone in Tone:
        for background in (palette.background, palette.panel):
            assert contrast(palette.color(tone), background) >= AA_CONTRAST, (tone, background)
    assert contrast(palette.cursor_text, palette.cursor) >= AA_CONTRAST


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_settings_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "berth" / "tui.json"
    assert load_settings(path) == (TuiSettings(), "")
    chosen = TuiSettings(theme="light", columns=("name", "job"), sort="left", reverse=True, group="state", detail=False)
    assert save_settings(chosen, path) == ""
    assert load_settings(path) == (chosen, "")
    assert [each.name for each in path.parent.iterdir()] == ["tui.json"]


@pytest.mark.parametrize(
    ("content", "says"),
    [("{", "using the defaults"), ("[]", "not a JSON object"), ("\xff", ""), ('{"theme": "pink"}', "invalid theme")],
)
def test_damaged_settings_give_the_defaults_and_a_warning(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "tui.json"
    path.write_text(content, encoding="latin-1")
    settings, warning = load_settings(path)
    assert settings == TuiSettings()
    assert warning
    assert says in warning


def test_settings_of_a_later_version_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "tui.json"
    path.write_text('{"theme": "dark", "zoom": 3, "reverse": "yes"}')
    settings, warning = load_settings(path)
    assert settings == TuiSettings(theme="dark")
    assert "invalid reverse" in warning


def test_settings_that_cannot_be_saved_are_reported(tmp_path: Path) -> None:
    (tmp_path / "berth").touch()
    assert "cannot save the settings" in save_settings(TuiSettings(), tmp_path / "berth" / "tui.json")


@pytest.mark.parametrize(
    ("theme", "colorfgbg", "dark"),
    [
        ("auto", "", True),
        ("auto", "0;15", False),
        ("auto", "15;0", True),
        ("light", "15;0", False),
        ("dark", "0;15", True),
    ],
)
def test_theme_follows_the_terminal_unless_chosen(theme: str, colorfgbg: str, dark: bool) -> None:
    assert TuiSettings(theme=theme).is_dark({"COLORFGBG": colorfgbg}) is dark


def test_lost_connection_is_described_with_its_time() -> None:
    lost = ConnectionState(Link.LOST, NOW - 86400 * 2, "it closed the connection")
    assert lost.describe(NOW).startswith("as of 2026-")
    assert lost.describe(NOW).endswith(", trying again")
    assert "nothing was sent" in (lost.refusal(NOW) or "")
    assert ConnectionState(Link.LOST).describe(NOW) == "the controller does not answer, trying again"
    assert ConnectionState(Link.LIVE).describe(NOW) == ""
    assert ConnectionState(Link.LIVE).refusal(NOW) is None
    assert "not connected" in (ConnectionState().refusal(NOW) or "")


def test_pauses_grow_to_a_limit_and_never_end() -> None:
    backoff = ReconnectBackoff()
    pauses = [backoff.next_pause() for _ in range(50)]
    assert pauses[0] == FIRST_RETRY_S
    assert pauses[1] > pauses[0]
    assert pauses[-1] == LONGEST_RETRY_S
    backoff.reset()
    assert backoff.next_pause() == FIRST_RETRY_S


def test_owner_and_newer_version_of_a_profile() -> None:
    newest = newest_versions(
        [
            ProfileChoice("torch", "2.9", "site"),
            ProfileChoice("torch", "2.10", "site", newest=True),
            ProfileChoice("torch", "1", "own", newest=True),
        ]
    )
    site = SiteFacts(stores=("/site",), newest=newest)
    ours = make_view(image="/site/torch/2.9/image.sif")
    mine = make_view(image="/shared/alice/profiles/torch/1/image.sif", version="1")
    assert (site.owner_of(ours), site.newer_version(ours)) == ("site", "2.10")
    assert (site.owner_of(mine), site.newer_version(mine)) == ("own", "")
    assert site.newer_version(make_view(image="/site/torch/2.10/image.sif", version="2.10")) == ""
    assert SiteFacts(newest={("site", "torch"): "3"}).profile_name(ours) == "torch"
    assert SiteFacts().owner_of(ours) == ""
    assert SiteFacts(newest={("own", "torch"): "3"}).newer_version(ours) == "3"  # personal mode
    assert ("newer", "2.10; `berth switch dev site/torch` moves to it") in detail_texts(ours, site, NOW)
    assert "newer" not in dict(detail_texts(mine, site, NOW))
    assert dict(detail_texts(mine, site, NOW))["profile"].startswith("own/torch@1 ")


def test_bars_of_a_session_show_what_it_reports() -> None:
    idle = make_view(idle_since=NOW - 3600, gpu_idle_since=NOW - 7200)
    assert detail_bars(idle.model_copy(update={"idle_stop_at": NOW + 10800}), NOW, ASCII) == [
        ("time left", "|########--------| 4 h of 8 h"),
        ("GPU idle", "|########--------| 2 h of 4 h of the job"),
        ("idle", "|####------------| 1 h of 4 h, then it stops"),
    ]
    assert [title for title, _ in detail_bars(idle, NOW, ASCII)] == ["time left", "GPU idle"]
    assert detail_bars(make_view(ends_at=NOW - 60, started_at=NOW - 120), NOW, ASCII) == [
        ("time left", "|----------------| 0 s of 1 min")
    ]
    for view in (make_view(state="stopped"), make_view(state="queued"), make_view(started_at=NOW, ends_at=NOW)):
        assert detail_bars(view, NOW, ASCII) == []
