"""The list of sessions: filter, order, groups, marks and the chosen session, without a terminal."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.fakes.tui_feed import NOW, make_view
from tui.core.session_list import GROUPS, SORT_KEYS, STATE_ORDER, GroupHeading, ListState
from tui.core.summary import chosen_line

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView


def names(sessions: ListState) -> list[str]:
    """The lines as text: names of sessions, and headings in brackets."""
    lines = [sessions.line(index) for index in range(sessions.line_count)]
    return [f"[{each.title}]" if isinstance(each, GroupHeading) else sessions.views[each].name for each in lines]


@pytest.fixture
def sessions() -> ListState:
    state = ListState()
    state.replace(
        [
            make_view("train", "ready", ends_at=NOW + 600),
            make_view("dev", "ready"),
            make_view("wait", "queued", reason="Resources", ahead=3),
            make_view("next", "queued", ahead=0),
            make_view("old", "stopped", profile="base"),
        ]
    )
    return state


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("name", ["dev", "next", "old", "train", "wait"]),
        ("state", ["dev", "train", "next", "wait", "old"]),
        ("left", ["train", "dev", "next", "old", "wait"]),
        ("queue", ["next", "wait", "dev", "old", "train"]),
        ("profile", ["old", "dev", "next", "train", "wait"]),
    ],
)
def test_list_is_sorted(sessions: ListState, sort: str, expected: list[str]) -> None:
    sessions.sort_by(sort)
    assert names(sessions) == expected
    sessions.sort_by(sort, reverse=True)
    assert names(sessions) == expected[::-1]


def test_groups_have_headings_with_counts(sessions: ListState) -> None:
    sessions.group_by("state")
    assert names(sessions) == ["[queued]", "next", "wait", "[ready]", "dev", "train", "[stopped]", "old"]
    assert sessions.line(0) == GroupHeading("queued", 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torch", ["dev", "next", "train", "wait"]),
        ("TORCH ready", ["dev", "train"]),
        ("resources", ["wait"]),
        ("gpu01", ["dev", "train"]),
        ("4711 ready", ["dev", "train"]),
        ("nothing-has-this", []),
    ],
)
def test_filter_shows_sessions_with_all_words(sessions: ListState, text: str, expected: list[str]) -> None:
    sessions.set_filter(text)
    assert names(sessions) == expected
    sessions.set_filter("")
    assert sessions.shown_count == 5


def test_change_in_place_draws_one_line(sessions: ListState) -> None:
    change = sessions.apply([make_view("dev", "stopped", revision=2)])
    assert (change.lines, change.moved) == ((0,), False)


def test_change_of_the_sorted_value_moves_lines(sessions: ListState) -> None:
    sessions.sort_by("state")
    change = sessions.apply([make_view("dev", "stopped", revision=2)])
    assert change.moved
    assert names(sessions) == ["train", "next", "wait", "dev", "old"]


def test_change_can_leave_and_enter_the_filter(sessions: ListState) -> None:
    sessions.set_filter("ready")
    sessions.apply([make_view("dev", "stopped", revision=2)])
    assert names(sessions) == ["train"]
    sessions.apply([make_view("old", "ready", revision=2)])
    assert names(sessions) == ["old", "train"]


def test_outdated_view_is_ignored(sessions: ListState) -> None:
    sessions.apply([make_view("dev", "stopped", revision=3)])
    sessions.apply([make_view("dev", "failed", revision=2)])
    assert str(sessions.views["id-dev"].state) == "stopped"


def test_chosen_session_stays_chosen_while_lines_move(sessions: ListState) -> None:
    sessions.choose(4)
    assert sessions.chosen == "id-wait"
    sessions.apply([make_view("aaa")])
    assert (sessions.chosen, sessions.chosen_line) == ("id-wait", 5)
    sessions.sort_by("state", reverse=True)
    assert sessions.chosen == "id-wait"


def test_neighbour_is_chosen_when_the_chosen_session_is_removed(sessions: ListState) -> None:
    sessions.choose(2)
    assert sessions.chosen == "id-old"
    sessions.apply([], ["id-old"])
    assert sessions.chosen == "id-train"


def test_moving_skips_headings_in_both_directions(sessions: ListState) -> None:
    sessions.group_by("state")
    sessions.choose(0)
    assert sessions.chosen == "id-next"
    sessions.choose(3)
    assert sessions.chosen == "id-dev"
    sessions.choose(3)
    assert sessions.chosen == "id-wait"


@pytest.mark.parametrize(("line", "chosen"), [(-7, "id-dev"), (99, "id-wait")])
def test_lines_outside_the_list_are_brought_inside(sessions: ListState, line: int, chosen: str) -> None:
    sessions.choose(line)
    assert sessions.chosen == chosen


def test_actions_are_for_marked_sessions_that_are_shown(sessions: ListState) -> None:
    sessions.choose(0)
    assert [view.name for view in sessions.targets()] == ["dev"]
    for identifier in ("id-wait", "id-old"):
        sessions.toggle_mark(identifier)
    assert [view.name for view in sessions.targets()] == ["old", "wait"]
    sessions.set_filter("queued")
    assert [view.name for view in sessions.targets()] == ["wait"]
    sessions.apply([], ["id-wait"])
    assert sessions.marks == {"id-old"}


def test_marking_all_twice_removes_the_marks(sessions: ListState) -> None:
    sessions.set_filter("queued")
    sessions.mark_shown()
    assert sessions.marks == {"id-wait", "id-next"}
    sessions.mark_shown()
    assert not sessions.marks


def test_empty_list_has_no_target() -> None:
    sessions = ListState()
    sessions.replace([])
    sessions.choose(3)
    assert (sessions.line_count, sessions.targets(), sessions.chosen_line) == (0, [], 0)


@pytest.mark.parametrize("group", GROUPS)
def test_changes_lead_to_the_same_list_as_a_snapshot(group: str) -> None:
    """Random changes, one by one, against a list that is built from the result."""
    dice = random.Random(group)  # noqa: S311 - a repeatable test
    state = ListState(dice.choice(list(SORT_KEYS)), group, reverse=dice.random() < 0.5)
    state.set_filter("torch")
    state.replace([])
    known: dict[str, SessionView] = {}
    for revision in range(400):
        name = f"s{dice.randrange(40)}"
        if name in known and dice.random() < 0.2:
            state.apply([], [known.pop(name).id])
        else:
            profile = dice.choice(["torch", "base"])
            known[name] = make_view(name, dice.choice(STATE_ORDER), revision=revision, profile=profile)
            state.apply([known[name]])
        fresh = ListState(state.sort, state.group, reverse=state.reverse)
        fresh.set_filter("torch")
        fresh.replace(known.values())
        assert names(state) == names(fresh)
        lines = [state.line(index) for index in range(state.line_count)]
        assert all(isinstance(line, GroupHeading) or state.line_of(line) == at for at, line in enumerate(lines))


def test_empty_list_says_how_to_start_a_session() -> None:
    assert chosen_line(ListState(), 0.0) == "no sessions yet; n starts one"
