"""`berth fetch` and `promote` against a scripted controller: what they bring from jobs, and what they leave."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from broker.cli.fetch_tree import fetch_tree
from broker.errors import ExitCode
from broker.schema.environments import BatchJob, EnvironmentView
from broker.schema.sessions import SessionState
from profiles.removal import remove_tree
from tests.fakes.command_line import run
from tests.fakes.controller import CREATED, ScriptedController, operation, view
from tests.volumes.deep import make_deep

if TYPE_CHECKING:
    import pytest


def environment(tmp_path: Path, *keys: str) -> EnvironmentView:
    jobs = []
    for key in keys:
        top = tmp_path / "tops" / key
        (top / "work/sub").mkdir(parents=True)
        (top / "work/result").write_text(f"of {key}\n")
        (top / "work/sub/more").write_text(key)
        (top / "elsewhere").write_text("x")
        work = "" if "@" in key else str(tmp_path / "submitted")
        jobs.append(BatchJob(key=key, top=str(top), node="c1", work=work, inside="/home/alice/work", running=False))
    told = {"profile": "base", "version": "1", "directory": "/d", "created_at": CREATED, "used_at": CREATED}
    return EnvironmentView(id="01e", of="dev", job_id=42, jobs=jobs, **told)  # type: ignore[arg-type]  # as JSON has it


def test_fetch_brings_what_was_written_where_it_was_submitted(controller: ScriptedController, tmp_path: Path) -> None:
    controller.environments = [environment(tmp_path, "42")]
    result = run("fetch", "42", "--json")
    assert result.exit_code == 0, result.output
    place = tmp_path / "submitted"
    assert json.loads(result.output) == {"copied": [f"{place}/result", f"{place}/sub/more"], "left": []}
    assert json.loads(run("fetch", "42", "--json").output) == {"copied": [], "left": []}
    (place / "result").write_text("mine")
    clash = run("fetch", "42")
    assert clash.exit_code == ExitCode.CONFLICT
    assert "--force replaces these" in clash.output
    assert (place / "result").read_text() == "mine"
    assert run("fetch", "42", "--force").exit_code == 0
    assert (place / "result").read_text() == "of 42\n"
    run("fetch", "42", "--all", "--to", str(tmp_path / "all"))
    assert (tmp_path / "all/elsewhere").read_text() == "x"


def test_a_job_stands_for_its_tasks_and_its_nodes(controller: ScriptedController, tmp_path: Path) -> None:
    controller.environments = [environment(tmp_path, "42_1", "42_2", "42_2@c2.0"), environment(tmp_path, "421")]
    fetched = json.loads(run("fetch", "42_2", "--to", str(tmp_path / "a"), "--force", "--json").output)
    assert [Path(path).name for path in fetched["copied"]] == ["result", "more", "result", "more"]
    assert (tmp_path / "a/result").read_text() == "of 42_2@c2.0\n"
    assert len(json.loads(run("fetch", "42", "--to", str(tmp_path / "b"), "--force", "--json").output)["copied"]) == 6
    for words, says in [(("fetch", "7"), "there is no environment of job 7"), (("fetch", "42_9"), "has not begun yet")]:
        result = run(*words)
        assert result.exit_code == ExitCode.NOT_FOUND
        assert says in result.output
    assert run("fetch", "x7").exit_code == ExitCode.USAGE


def test_promote_names_one_job(controller: ScriptedController, tmp_path: Path) -> None:
    controller.environments = [environment(tmp_path, "42_1", "42_2")]
    controller.script["debug"] += [
        view("debug", SessionState.CHANGING, operation=operation("promote")),
        view("debug", SessionState.STOPPED, operation=operation("promote", "done")),
    ]
    result = run("promote", "42_1", "debug")
    assert result.exit_code == 0, result.output
    assert "debug was created; `berth start debug` starts it" in result.output
    method, path, body = next(each for each in controller.asked if each[1].endswith("/promote"))
    assert (method, path, body) == ("POST", "/v1/environments/01e/promote", {"name": "debug", "job": "42_1"})
    whole = run("promote", "42", "debug")
    assert whole.exit_code == ExitCode.NOT_FOUND
    assert "`berth promote 42_1 debug`" in whole.output


def test_fetched_are_files_and_links_alone(tmp_path: Path) -> None:
    """Marks of deletion delete nothing, links are not followed, and with a base only what differs is brought."""
    source, target, base = tmp_path / "source", tmp_path / "target", tmp_path / "base"
    for each in (source, target, base):
        each.mkdir()
    (source / "link").symlink_to("/etc/passwd")
    (source / "folder").symlink_to("/etc")
    os.mkfifo(source / "fifo")
    (source / ".wh.gone").touch()
    (target / "gone").write_text("kept")
    for place in (source, base):
        (place / "same").write_text("same")
    (source / "new").write_text("new")
    done = fetch_tree(source, target, base=base, force=True)
    assert [Path(path).name for path in done.copied] == ["folder", "link", "new"]
    assert (target / "link").readlink() == Path("/etc/passwd")
    assert (target / "gone").read_text() == "kept"


def test_a_file_where_a_folder_is_to_be_is_left(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for each in (source / "folder", target):
        each.mkdir(parents=True)
    (source / "folder/file").write_text("x")
    (target / "folder").write_text("a file")
    done = fetch_tree(source, target, base=None, force=True)
    assert [clash.path for clash in done.clashes] == [str(target / "folder/file")]
    assert (target / "folder").read_text() == "a file"


def test_too_long_path_is_named_and_all_others_are_fetched(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for each in (source, target):
        each.mkdir()
    (source / "file").write_text("x")
    make_deep(source)
    done = fetch_tree(source, target, base=None, force=True)
    assert done.copied == [str(target / "file")]
    assert [os.path.basename(path) for path in done.too_long] == ["end"]  # noqa: PTH119 - it is no path
    assert sorted(path.name for path in target.iterdir()) == ["file"]
    remove_tree(source)


def test_interrupted_fetch_says_what_it_copied(
    controller: ScriptedController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it leaves no incomplete file."""
    controller.environments = [environment(tmp_path, "42")]
    copy2 = shutil.copy2

    def copy(origin: Path, draft: Path, *, follow_symlinks: bool) -> None:
        copy2(origin, draft, follow_symlinks=follow_symlinks)
        if origin.name == "more":
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copy2", copy)
    result = run("fetch", "42")
    assert result.exit_code == ExitCode.INTERRUPTED
    assert "interrupted; 1 file of job 42 copied\n  hint: the same command copies the others" in result.stderr
    assert sorted(path.name for path in (tmp_path / "submitted").rglob("*")) == ["result", "sub"]
    monkeypatch.undo()
    assert fetch_tree(tmp_path / "tops/42/work", tmp_path / "submitted", base=None, force=False).copied
