"""Trees of snapshots, timelines of jobs, questions and results, as texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.schema.checks import CheckReport, StartEstimate, SwitchPreview
from broker.schema.connections import ConnectionList
from broker.schema.sessions import JobView, Persistence, SessionState
from broker.schema.site import EventView
from broker.schema.volumes import SizeLine, SizeReport, SnapshotView
from broker.text.timeline import timeline, timeline_scale
from tests.fakes.controller import CREATED, operation, ready, view
from tui.core.actions import ACTIONS, find_action
from tui.core.confirmation import CHECKED_ACTIONS, confirmation, snapshot_deletion
from tui.core.outcome import describe_result, failed_operation, is_complete
from tui.core.session_action import Danger
from tui.core.snapshot_tree import find_origins, snapshot_sizes, snapshot_tree, tree_lines
from tui.core.views import connections_text, events_text, history, links_text, safe_lines

if TYPE_CHECKING:
    from broker.forms.form import Form
    from tui.core.session_action import SessionAction

NOW = CREATED + 7200


def snapshot(number: int, home: str, system: str = "", **values: object) -> SnapshotView:
    fields = {
        "number": number,
        "at": CREATED + number * 60,
        "consistency": "stopped",
        "profile": "base",
        "version": "1",
    }
    layers = {"home": home.split(), "system": system.split()}
    return SnapshotView.model_validate(fields | layers | values)


BRANCHED = [
    snapshot(1, "a", label="begin"),
    snapshot(2, "a b"),
    snapshot(3, "a b c", reason="before the rollback to 1", automatic=True),
    snapshot(4, "a d"),
    snapshot(5, "x", profile="other"),
]
"""Two further snapshots, a rollback to the first, another snapshot, and one whose layers were merged."""


def test_the_origin_is_the_longest_beginning() -> None:
    assert find_origins(BRANCHED) == {2: 1, 3: 2, 4: 1}


def test_the_tree_shows_branches_labels_ages_and_sizes() -> None:
    nodes = snapshot_tree(BRANCHED, NOW, sizes={1: 2048})
    assert [node.row[0] for node in nodes] == ["1", "├─ 2", "│  └─ 3", "└─ 4", "5"]
    assert nodes[0].row[1:3] == ("begin", "1 h 59 min")
    assert [node.row[3] for node in nodes] == ["2.0 KiB", "", "", "", ""]
    assert nodes[2].row[1] == "before the rollback to 1 (automatic)"
    assert [node.depth for node in nodes] == [0, 1, 2, 1, 0]


def test_a_system_of_another_profile_is_no_origin_by_itself() -> None:
    switched = [snapshot(1, "a", "s"), snapshot(2, "a b", "t", profile="other"), snapshot(3, "a b c", "s u")]
    assert find_origins(switched) == {2: 1, 3: 2}


def test_a_deep_chain_of_snapshots_is_no_problem() -> None:
    chain = [snapshot(number, " ".join(map(str, range(number)))) for number in range(1, 300)]
    assert snapshot_tree(chain, NOW)[-1].depth == 298


@pytest.mark.parametrize("cells", [10, 40, 74, 114, 300])
def test_the_lines_of_the_tree_fit(cells: int) -> None:
    headings, lines = tree_lines(snapshot_tree(BRANCHED, NOW), cells)
    assert len(lines) == len(BRANCHED)
    assert max(map(len, [headings, *lines])) <= cells
    assert cells < 114 or "before the rollback to 1 (automatic)" in lines[2]
    assert cells > 74 or "…" in lines[2]


def test_a_label_with_control_characters_is_escaped() -> None:
    _, (line,) = tree_lines(snapshot_tree([snapshot(1, "a", reason="x\x1b[2J")], NOW), 100)
    assert "x\\x1b[2J" in line


def test_no_snapshots_make_no_tree() -> None:
    assert snapshot_tree([], NOW) == []


def test_sizes_are_those_of_snapshots_only() -> None:
    lines = [SizeLine(what="home", own=1, total=2), SizeLine(what="snapshot 3", own=7, total=9)]
    assert snapshot_sizes(SizeReport(lines=lines, bytes=1, free=1)) == {3: 7}


JOBS = [
    JobView(submission=2, job_id=8, node="c2", asked_at=NOW - 1800, started_at=NOW - 900, gpus=1),
    JobView(
        submission=1, job_id=7, node="c1", asked_at=NOW - 3600, started_at=NOW - 3600, ended_at=NOW - 1800, gpus=2,
        outcome="TIMEOUT",
    ),
]  # fmt: skip


def test_the_timeline_is_to_scale() -> None:
    late, early = timeline(JOBS, NOW, 40)
    assert late.bar == " " * 20 + "░" * 10 + "█" * 10
    assert early.bar == "█" * 20 + " " * 20
    assert late.text == "waited 15 min, ran 15 min from " + late.text[-14:]
    assert late.text.endswith(", running")
    assert early.text.endswith(", TIMEOUT")
    assert timeline_scale(JOBS, NOW).endswith("(1 h): 2 jobs, 1.2 GPU hours")


@pytest.mark.parametrize("cells", [0, 1, 10, 17, 250])
def test_every_bar_has_the_width_of_the_timeline(cells: int) -> None:
    odd = [
        JobView(submission=1, asked_at=NOW + 60),
        JobView(submission=2, job_id=1, asked_at=NOW - 50, started_at=NOW - 1, ended_at=NOW - 1),
        JobView(submission=3, job_id=2, asked_at=NOW - 50, started_at=NOW + 5, ended_at=NOW - 10, outcome="LOST"),
    ]
    assert {len(row.bar) for row in timeline(odd, NOW, cells)} == {max(cells, 10)}
    assert "█" in timeline(odd, NOW, cells)[1].bar


def test_a_session_without_jobs_has_an_empty_timeline() -> None:
    assert timeline([], NOW, 40) == []
    assert timeline_scale([], NOW) == "no jobs yet"
    assert history([], NOW, 80)[0] == "no jobs yet"


def filled(action_id: str, **texts: str) -> Form:
    make = find_action(action_id).make_form
    assert make is not None
    form = make()
    for field_id, text in texts.items():
        form.set(field_id, text)
    return form


FORMS = {
    "rollback": {"snapshot": "3"},
    "switch": {"profile": "other@2"},
    "resize": {"gpus": "none"},
}


@pytest.mark.parametrize("action", [each for each in ACTIONS if each.danger is not Danger.NONE], ids=lambda it: it.id)
def test_every_dangerous_action_says_what_is_lost_and_how_to_undo_it(action: SessionAction) -> None:
    form = filled(action.id, **FORMS[action.id]) if action.id in FORMS else None
    session = ready("dev", options=["--gres=gpu:1"])
    report = CheckReport(session=session, ends_job=True, estimate=StartEstimate(at=NOW, waiting=0))
    checked = [report] if action.id in CHECKED_ACTIONS else []
    shown = confirmation(action, [session], form, reports=checked, now=NOW)
    assert "dev" in shown.question
    assert shown.lost
    assert shown.undo
    assert shown.command.startswith("berth ")
    assert shown.typed == ("dev" if action.danger is Danger.PERMANENT else "")


def test_a_rollback_of_a_running_session_names_the_programs_and_the_estimate() -> None:
    session = ready("dev")
    report = CheckReport(session=session, ends_job=True, estimate=StartEstimate(at=NOW, waiting=0))
    shown = confirmation(
        find_action("rollback"), [session], filled("rollback", snapshot="3"), reports=[report], now=NOW
    )
    assert shown.question == "Roll dev back to snapshot 3?"
    assert shown.plan == (
        "dev: rolls back to snapshot 3; its present state becomes a snapshot; its programs end, and it is started "
        "again afterwards",
        "dev: Slurm expects to start it again at once",
    )
    assert shown.lost.startswith("running programs")
    assert shown.command == "berth rollback dev 3"


def test_a_stop_names_the_use_and_several_sessions() -> None:
    shown = confirmation(find_action("stop"), [ready("a"), ready("b")], used={"b": "2 connections"}, now=NOW)
    assert shown.question == "b is in use (2 connections). Stop a, b?"
    assert shown.undo == "`berth start a b` starts them again with all files"


def test_a_deletion_of_a_snapshot_asks_for_the_name() -> None:
    shown = snapshot_deletion(view("dev"), "3")
    assert (shown.typed, shown.undo) == ("dev", "this cannot be undone")
    assert shown.command == "berth snapshots dev --delete 3"


def test_a_resize_is_undone_with_the_present_options() -> None:
    report = CheckReport(session=ready("dev"), ends_job=True)
    shown = confirmation(
        find_action("resize"),
        [ready("dev", options=["--gres=gpu:1", "--mem=4G"])],
        filled("resize", gpus="none"),
        reports=[report],
        now=NOW,
    )
    assert "`berth resize dev --gres=gpu:1 --mem=4G`" in shown.undo
    assert "continues in a new job with --gres=none" in shown.plan[0]


def test_a_pending_operation_is_waited_for_and_a_queued_session_is_not() -> None:
    assert not is_complete("rollback", view("dev", SessionState.CHANGING, operation=operation("rollback")))
    assert is_complete("rollback", view("dev", operation=operation("rollback", "done")))
    assert is_complete("start", view("dev", SessionState.QUEUED))
    assert not is_complete("start", view("dev", SessionState.STARTING))
    assert not is_complete("stop", view("dev", SessionState.STOPPING))
    assert is_complete("extend", view("dev", SessionState.STOPPING))


def test_a_result_says_how_to_undo_it() -> None:
    done = operation("rollback", "done", message="rolled dev back to snapshot 3", undo="berth rollback dev 4")
    text = describe_result("rollback", view("dev", operation=done), done.id, NOW)
    assert text == "rolled dev back to snapshot 3; to undo: berth rollback dev 4"


def test_only_a_failure_of_this_action_is_reported() -> None:
    failed = operation("rollback", "failed", reason="no-space", message="the disk is full", hint="`berth gc`")
    session = view("dev", operation=failed)
    error = failed_operation("rollback", session, failed.id)
    assert error is not None
    assert (error.reason, error.message, error.hint) == ("no-space", "the disk is full", "`berth gc`")
    assert failed_operation("policies", session, None) is None


def test_events_connections_and_links_are_texts() -> None:
    events = [EventView(at=CREATED, actor="alice", session="dev", action="start", detail="x\x1b[2J")]
    assert events_text(events, NOW)[1].endswith("alice  start  x\x1b[2J")
    assert "\x1b" not in safe_lines(events_text(events, NOW))
    assert events_text([], NOW) == ["no events yet"]
    assert connections_text(ConnectionList(connections=[], terminals=1), NOW) == [
        "1 open terminal",
        "",
        "Berth knows of no open connections.",
    ]
    links = links_text(view("dev"), "berth")
    assert "vscode: vscode://vscode-remote/ssh-remote+dev.berth/home/alice" in links
    assert "  $ berth open dev zed" in links


def test_the_question_about_a_switch_shows_what_changes() -> None:
    session = ready("dev", options=["--gres=gpu:1"])
    preview = SwitchPreview(
        profile="torch",
        version="2",
        description="PyTorch",
        options=["--mem=8G", "--gres=gpu:1"],
        present_options=["--gres=gpu:1"],
        persistence=Persistence(system="fresh"),
    )

    def changes(preview: SwitchPreview | None, fresh: str = "no") -> tuple[str, ...]:
        form = filled("switch", profile="torch@2", fresh=fresh)
        report = CheckReport(session=session, ends_job=True, switch=preview)
        return confirmation(find_action("switch"), [session], form, reports=[report], now=NOW).changes

    assert changes(preview) == (
        "profile     base@1",
        "         -> torch@2 (PyTorch)",
        "resources   --gres=gpu:1",
        "         -> --gres=gpu:1 --mem=8G",
        "kept        everything",
        "         -> home kept; everything outside comes from torch@2 at each start",
        "home        the same",
        "system      your changes outside the home, which go to a snapshot",
        "         -> with the changes of its last use of this version, else empty",
    )
    assert changes(preview, fresh="yes")[-1] == "         -> empty"
    same = preview.model_copy(update={"options": ["--gres=gpu:1"], "persistence": Persistence()})
    assert changes(same)[2:4] == ("resources   --gres=gpu:1 (unchanged)", "kept        everything (unchanged)")
    lost = preview.model_copy(update={"present_options": None, "options": []})
    assert changes(lost)[2:4] == (
        "resources   unknown, because its image is missing",
        "         -> as Slurm sets them",
    )
    assert changes(None) == ()
