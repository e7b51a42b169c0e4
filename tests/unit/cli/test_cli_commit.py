"""`berth profile commit`: what is asked of the controller, shown, and refused. The work itself is test_commit.py's."""

from __future__ import annotations

import json
import os
import pwd
from typing import TYPE_CHECKING, Any

import pytest

from broker import errors
from broker.schema import volumes
from profiles.commit import commit as committing
from profiles.commit.filters import CACHE
from profiles.commit.findings import ChangedPath, Findings, LeftOut
from profiles.image.store import Store
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import CREATED, ScriptedController, operation, view
from tests.fakes.core import publish
from tests.fakes.signing import key_file, signing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from profiles.commit.commit import Source
    from profiles.commit.filters import PathFilter
    from profiles.image.store import Image
    from profiles.signature.keys import PrivateSigningKey

FOUND = Findings(
    added=[("hello", "2.12")],
    changed=[("git", "1", "2")],
    files=[ChangedPath(f"/opt/{number}", "A", "file", size=2048) for number in range(150)],
    of_packages=7,
    left_out=[
        LeftOut("/root/.cache/pip/a", CACHE),
        LeftOut("/root/.netrc", "may be secret: passwords"),
        LeftOut("/var/cache/apt/b", CACHE),
    ],
)

KEY = signing_key()


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    """A controller with a session that takes its snapshot 3 when asked, and the image that it was made of."""
    with command_line(monkeypatch, tmp_path) as running:
        base = publish(Store(tmp_path / "store"))
        running.sessions["dev"] = view()
        running.script["dev"].append(view(operation=operation("snapshot", "done", snapshot=3)))
        snapshot = {"at": CREATED, "consistency": "stopped", "profile": "base", "version": "1", "digest": base.digest}
        running.snapshots["dev"] = [
            volumes.SnapshotView.model_validate(snapshot | {"number": 2, "label": "good", "system": ["A"]}),
            volumes.SnapshotView.model_validate(snapshot | {"number": 3, "system": ["A", "B"]}),
        ]
        yield running


@pytest.fixture
def keys() -> list[PrivateSigningKey | None]:
    """The keys of all commits."""
    return []


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, keys: list[PrivateSigningKey | None]) -> list[tuple[Source, PathFilter]]:
    """The sources and filters of all commits, which do no work."""
    seen: list[tuple[Source, PathFilter]] = []

    def commit(
        source: Source,
        *,
        name: str,
        version: str,
        store: Store,
        approve: Callable[[Findings], None],
        path_filter: PathFilter,
        sign_key: PrivateSigningKey | None,
        **_: Any,  # noqa: ANN401 - what is not looked at
    ) -> Image:
        seen.append((source, path_filter))
        keys.append(sign_key)
        approve(FOUND)
        return publish(store, name, version)

    monkeypatch.setattr(committing, "commit_session", commit)
    return seen


def test_a_snapshot_is_made_committed_and_forgotten(
    controller: ScriptedController, sources: list[tuple[Source, PathFilter]], tmp_path: Path
) -> None:
    result = run("profile", "commit", "dev", "mine@2", "--yes", "--include", "/root/.netrc", "--exclude", "/opt/1*")
    assert result.exit_code == 0, result.stderr
    [(source, path_filter)] = sources
    root = tmp_path / "shared" / pwd.getpwuid(os.getuid()).pw_name / "layers"
    assert source.layers == [root / "A", root / "B"]
    assert (source.session, source.base.name) == ("dev", "base")
    assert (path_filter.include, path_filter.exclude) == (("/root/.netrc",), ("/opt/1*",))
    assert [each[:2] for each in controller.asked if each[0] != "GET"] == [
        ("POST", "/v1/sessions/dev/snapshots"),
        ("DELETE", "/v1/sessions/dev/snapshots/3"),
    ]
    assert result.stdout.startswith("mine@2 sha256:")
    assert Store(tmp_path / "store").versions("mine") == ["2"]


def test_image_is_signed_with_the_key_and_a_key_that_cannot_be_read_stops_it(
    controller: ScriptedController, sources: list[tuple[Source, PathFilter]], keys: list[Any], tmp_path: Path
) -> None:
    refused = run("profile", "commit", "dev", "mine@2", "--yes", "--sign-key", str(tmp_path / "gone"))
    assert (refused.exit_code, sources, controller.asked) == (2, [], [])
    done = run("profile", "commit", "dev", "mine@2", "--yes", "--sign-key", str(key_file(tmp_path / "key", KEY)))
    assert (done.exit_code, len(sources)) == (0, 1), done.stderr
    assert [each.public.key_id for each in keys] == [KEY.public.key_id]


def test_what_goes_in_and_what_does_not_is_shown(
    controller: ScriptedController, sources: list[tuple[Source, PathFilter]]
) -> None:
    said = run("profile", "commit", "dev", "mine@2", "--yes").stderr
    assert "Included in mine@2, on top of base@1:" in said
    assert "  1 package added:\n    hello 2.12\n" in said
    assert "    git 1 -> 2\n" in said
    assert "  150 files of no package:\n    A /opt/0  2.0 KiB\n" in said
    assert "    … and 50 more" in said
    excluded = "Excluded:\n  1 path:\n    /root/.netrc  (may be secret: passwords)\n  and 2 paths of caches\n"
    assert said.endswith(excluded), "caches are counted, not listed"
    assert controller.asked
    assert len(sources) == 1


def test_json_has_all_of_it(controller: ScriptedController, sources: list[tuple[Source, PathFilter]]) -> None:
    result = run("profile", "commit", "dev", "mine@2", "--yes", "--json")
    shown = json.loads(result.stdout)
    assert (shown["name"], shown["version"]) == ("mine", "2")
    assert len(shown["committed"]["files"]) == 150
    assert "Included in" not in result.stderr
    refused = run("profile", "commit", "dev", "mine@3", "--json")
    assert refused.exit_code == 2
    assert (len(sources), len(controller.snapshots["dev"])) == (1, 1)


def test_a_snapshot_of_before_is_committed_and_kept(
    controller: ScriptedController, sources: list[tuple[Source, PathFilter]]
) -> None:
    for reference in ("good", "2"):
        assert run("profile", "commit", "dev", f"mine@{reference}", "--yes", "--at", reference).exit_code == 0
    assert [[layer.name for layer in source.layers] for source, _ in sources] == [["A"], ["A"]]
    assert not [each for each in controller.asked if each[0] != "GET"]
    missing = run("profile", "commit", "dev", "mine@9", "--yes", "--at", "9")
    assert (missing.exit_code, "has no snapshot 9" in missing.stderr) == (3, True)


def test_without_a_yes_nothing_is_published_and_no_snapshot_left(
    controller: ScriptedController, sources: list[tuple[Source, PathFilter]], tmp_path: Path
) -> None:
    result = run("profile", "commit", "dev", "mine@2")
    assert result.exit_code == 2
    assert "there is no terminal to ask at" in result.stderr
    assert "hello 2.12" in result.stderr, "what would go in was shown"
    assert Store(tmp_path / "store").versions("mine") == []
    assert [each.number for each in controller.snapshots["dev"]] == [2]
    assert len(sources) == 1


def test_a_snapshot_that_stays_is_told(
    controller: ScriptedController, sources: list[tuple[Source, PathFilter]]
) -> None:
    controller.failures["DELETE /v1/sessions/dev/snapshots/3"] = errors.ConflictError("busy")
    result = run("profile", "commit", "dev", "mine@2", "--yes")
    assert result.exit_code == 0
    assert "the temporary snapshot 3 of dev was not deleted: busy" in result.stderr
    assert len(sources) == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["dev", "mine"], 2, "the version of mine is missing"),
        (["none", "mine@2"], 3, "no session named none"),
        (["dev", "base@1"], 5, "base@1 is published"),
        (["dev", "mine@2", "--include", "opt"], 2, "no absolute path"),
        (["dev", "mine@2", "--include", "/home/alice/x"], 2, "cannot go into an image"),
    ],
)
def test_refusals_come_before_any_work(
    controller: ScriptedController, sources: list[tuple[Source, PathFilter]], words: list[str], code: int, says: str
) -> None:
    result = run("profile", "commit", *words, "--yes")
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr
    assert sources == []
    assert len(controller.snapshots["dev"]) == 2


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"digest": "sha256:other"}, 4, "was replaced by another one"),
        ({"version": "7"}, 4, "base@7 is not available"),
    ],
)
def test_without_the_image_that_the_layers_lie_on_it_is_refused(
    controller: ScriptedController,
    sources: list[tuple[Source, PathFilter]],
    change: dict[str, str],
    code: int,
    says: str,
) -> None:
    controller.snapshots["dev"] = [each.model_copy(update=change) for each in controller.snapshots["dev"]]
    result = run("profile", "commit", "dev", "mine@2", "--yes")
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr
    assert sources == []
    assert [each.number for each in controller.snapshots["dev"]] == [2]
