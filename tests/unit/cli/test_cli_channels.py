"""`berth profile promote`, `rollback`, `deprecate`, `retire` and `history`, and what other commands say of channels."""

from __future__ import annotations

import json
import os
import pwd
from typing import TYPE_CHECKING, Any

import pytest

from profiles.image.channels_file import CHANNELS_FILE
from profiles.image.store import Store
from tests.fakes.command_line import run
from tests.fakes.core import publish
from tests.fakes.verdicts import pass_test

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """base in the versions 1, 2 and 3 of a user in personal mode."""
    config = {"mode": "personal", "profiles": {"stores": [str(tmp_path / "store")]}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    monkeypatch.setenv("BERTH_CONFIG", str(tmp_path / "config.yaml"))
    store = Store(tmp_path / "store")
    for version in ("1", "2", "3"):
        pass_test(publish(store, version=version))
    return store


def answer(*words: str) -> dict[str, Any]:
    done = run("profile", *words, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(code: int, *words: str) -> str:
    done = run("profile", *words)
    assert done.exit_code == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_promote_rollback_and_history(store: Store) -> None:
    done = run("profile", "promote", "base@1")
    assert (done.exit_code, done.stderr) == (0, "base@1 is stable now\n")
    assert answer("promote", "base@3", "--channel", "candidate")["channels"] == {"stable": "1", "candidate": "3"}
    assert answer("promote", "base@candidate", "--reason", "tests pass")["channels"] == {
        "stable": "3",
        "candidate": "3",
        "previous": "1",
    }
    assert run("profile", "rollback", "base", "--reason", "slow").stderr == "base@1 is stable again\n"
    history = answer("history", "base")["history"]
    assert [(each["action"], each["version"], each["reason"]) for each in history] == [
        ("promote", "1", ""),
        ("promote", "3", ""),
        ("promote", "3", "tests pass"),
        ("rollback", "1", "slow"),
    ]
    assert {each["who"] for each in history} == {pwd.getpwuid(os.getuid()).pw_name}
    rows = run("profile", "history", "base").stdout.splitlines()
    assert len(rows) == 5
    assert rows[-1].split()[-5:] == ["rollback", "1", "stable", "3", "slow"]
    assert [each["test"] for each in history] == ["passed", "", "passed", ""]
    assert store.find("base").version == "1"


def test_only_a_tested_image_becomes_stable(store: Store) -> None:
    image = publish(store, version="4")
    said = refused(5, "promote", "base@4")
    assert "base@4 was not tested" in said
    assert "`berth profile test base@4`" in said
    assert answer("promote", "base@4", "--channel", "candidate")["channels"] == {"candidate": "4"}
    assert "verdict: null" in run("profile", "show", "base@4").stdout
    pass_test(image, failed="sftp")
    assert "has not passed its test: sftp" in refused(5, "promote", "base@candidate")
    pass_test(image, digest="sha256:" + "0" * 64)
    assert "its digest differs" in refused(5, "promote", "base@4")
    assert "its digest differs" in answer("show", "base@4")["verdict"]["problem"]
    assert answer("history", "base")["channels"] == {"candidate": "4"}
    pass_test(image)
    assert answer("promote", "base@4")["channels"]["stable"] == "4"
    shown = answer("show", "base@4")["verdict"]
    assert (shown["passed"], shown["who"], len(shown["steps"])) == (True, "carol", 9)


def test_forced_promotion_is_recorded(store: Store) -> None:
    publish(store, version="4")
    assert "needs a reason" in refused(2, "promote", "base@4", "--without-checks")
    assert "a candidate needs no test" in refused(
        2, "promote", "base@4", "--without-checks", "--channel", "candidate", "--reason", "x"
    )
    done = run("profile", "promote", "base@4", "--without-checks", "--reason", "a hole in ssh")
    assert done.stderr == "base@4 is stable now, without a passed test\n"
    (event,) = answer("history", "base")["history"]
    assert (event["test"], event["reason"]) == ("forced", "a hole in ssh")
    assert run("profile", "history", "base").stdout.splitlines()[1].split()[-5:] == [
        "forced", "a", "hole", "in", "ssh",
    ]  # fmt: skip


def test_list_and_show_name_channels_and_states(store: Store) -> None:
    assert store.path.exists()
    rows = [line.split()[:4] for line in run("profile", "list").stdout.splitlines()]
    assert rows[3] == ["base", "3", "own", "newest"]
    run("profile", "promote", "base@1")
    run("profile", "promote", "base@2")
    run("profile", "deprecate", "base@1", "--reason", "old libc", "--instead", "2")
    run("profile", "retire", "base@3", "--reason", "broken")
    text = run("profile", "list").stdout
    assert "previous, deprecated" in text
    assert [line.split()[3] for line in text.splitlines()[2:]] == ["stable", "retired"]
    listed = answer("list")["profiles"]
    assert [(each["channels"], each["newest"]) for each in listed] == [
        (["previous"], False),
        (["stable"], True),
        ([], False),
    ]
    assert [each["state"] and each["state"]["state"] for each in listed] == ["deprecated", None, "retired"]
    shown = run("profile", "show", "base@previous")
    assert "channels:\n- previous\n" in shown.stdout
    assert "base@1 is deprecated since " in shown.stderr
    assert "old libc; use base@2 instead" in shown.stderr
    assert answer("show", "base")["version"] == "2"


def test_undo(store: Store) -> None:
    run("profile", "deprecate", "base@1", "--reason", "old")
    assert answer("deprecate", "base@1", "--undo")["versions"] == {}
    run("profile", "retire", "base@1", "--reason", "old")
    assert run("profile", "retire", "base@1", "--undo").stderr == "base@1 is not retired any more\n"
    assert store.channels("base").states == {}
    assert [each["action"] for each in answer("history", "base")["history"]] == ["deprecate", "undo", "retire", "undo"]


def test_mistakes_are_told_and_change_nothing(store: Store) -> None:
    assert "version of base is missing" in refused(2, "promote", "base")
    assert "names a version" in refused(2, "rollback", "base@1")
    assert "has no version 9" in refused(3, "promote", "base@9")
    assert "no profile is called other" in refused(3, "history", "other")
    assert "has no candidate version" in refused(3, "promote", "base@candidate")
    assert "needs a reason" in refused(2, "retire", "base@1")
    assert "needs a reason" in refused(2, "deprecate", "base@1")
    assert "a reason is one line" in refused(2, "promote", "base@1", "--reason", "a\nb")
    assert "is no other version" in refused(2, "deprecate", "base@1", "--reason", "x", "--instead", "1")
    assert "contradict" in refused(2, "deprecate", "base@1", "--undo", "--instead", "2")
    assert "is not retired" in refused(5, "retire", "base@1", "--undo")
    assert "has no previous version" in refused(5, "rollback", "base")
    assert "is not one of 'candidate', 'stable'" in refused(2, "promote", "base@1", "--channel", "previous")
    assert not (store.path / "base" / CHANNELS_FILE).exists()


def test_version_in_a_channel_is_not_deleted(store: Store) -> None:
    run("profile", "promote", "base@1")
    said = refused(5, "delete", "base@1", "--yes", "--force")
    assert "base@1 is stable, and cannot be deleted" in said
    assert "hint: `berth profile promote base@VERSION` another version first" in said
    assert store.versions("base") == ["1", "2", "3"]
    assert run("profile", "delete", "base@3", "--yes", "--force").exit_code == 0


def test_damaged_file_is_named(store: Store) -> None:
    file = store.path / "base" / CHANNELS_FILE
    file.write_text("{")
    assert f"damaged: {file} is damaged: it is not JSON" in run("profile", "list").stderr
    for words in (("promote", "base@1"), ("rollback", "base"), ("history", "base"), ("show", "base")):
        said = refused(1, *words)
        assert f"{file} is damaged" in said
        assert "hint: NAME@VERSION starts without this file" in said
    assert run("profile", "show", "base@1").exit_code == 0
    assert file.read_text() == "{"


def test_recipe_with_the_name_of_a_channel_is_refused(store: Store, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\nversion: stable\nbase: profile:base@1\n")
    assert "mine.yaml:2: no version can be called stable" in refused(2, "check", str(recipe))
    assert "mine.yaml:2: no version can be called stable" in refused(2, "build", str(recipe))
    assert store.names() == ["base"]
