"""`berth profile rebuild`: nothing new builds nothing, news become a candidate, and a death leaves whole channels."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from profiles.build import builder, rebuild
from profiles.build.loaded_recipe import stored_recipe
from profiles.errors import BuildError
from profiles.image.channel_changes import REBUILD_LOCK_FILE, rebuild_lock
from profiles.image.rebuild_record import REBUILD_FILE
from profiles.image.store import Store
from profiles.inventory.model import CYCLONEDX_NAME
from tests.fakes.command_line import run
from tests.fakes.core import publish
from tests.fakes.rebuilds import RECIPE, PackageSources, publish_recipe
from tests.fakes.verdicts import pass_test

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> PackageSources:
    made = PackageSources()
    made.install(monkeypatch)
    return made


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: PackageSources) -> Store:
    """base@1.2, built and stable, in a store of a user in personal mode."""
    assert sources.builds == 0
    config = {"mode": "personal", "profiles": {"stores": [str(tmp_path / "store")]}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    monkeypatch.setenv("BERTH_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    store = Store(tmp_path / "store")
    pass_test(publish_recipe(store, tmp_path))
    assert run("profile", "promote", "base@1.2").exit_code == 0
    return store


def rebuilt(*words: str) -> dict[str, Any]:
    done = run("profile", "rebuild", *(words or ("base",)), "--json")
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["rebuilt"]
    return dict(found)


def refused(code: int, *words: str) -> str:
    done = run("profile", "rebuild", *words)
    assert done.exit_code == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_nothing_new_builds_nothing(store: Store, sources: PackageSources) -> None:
    assert rebuilt()["built"] is False
    done = run("profile", "rebuild", "--all")
    assert done.stderr.splitlines()[-1] == "Nothing was built: base@1.2 has what a build would read today."
    assert (sources.builds, store.versions("base")) == (1, ["1.2"])


def test_news_become_a_candidate_with_its_changes(store: Store, sources: PackageSources) -> None:
    sources.packages |= {"hello": "1.1", "extra": "7"}
    done = run("profile", "rebuild", "base")
    assert done.stdout == "A\tdeb extra 7\nM\tdeb hello 1.0 -> 1.1\n"
    said = "base@1.2+b1 is candidate now; since 1.2: extra 7 added, hello 1.0 -> 1.1"
    assert done.stderr.splitlines()[-1] == said
    assert store.channels("base").versions == {"stable": "1.2", "candidate": "1.2+b1"}
    event = store.channels("base").history[-1]
    assert (event.version, event.reason) == ("1.2+b1", "rebuild of 1.2: extra 7 added, hello 1.0 -> 1.1")
    recipe = (store.path / "base/1.2+b1/profile.yaml").read_text()
    assert recipe == RECIPE.format(version="1.2+b1")
    assert rebuilt()["built"] is False
    del sources.packages["extra"]
    assert rebuilt()["version"] == "1.2+b2"
    assert store.versions("base") == ["1.2", "1.2+b1", "1.2+b2"]
    shown = json.loads(run("profile", "show", "base@candidate", "--json").stdout)
    assert shown["rebuild"]["changes"] == [{"kind": "deb", "name": "extra", "before": "7", "after": ""}]


def test_newer_candidate_is_rebuilt_and_a_named_version_too(
    store: Store, sources: PackageSources, tmp_path: Path
) -> None:
    publish_recipe(store, tmp_path, "2.0")
    run("profile", "promote", "base@2.0", "--channel", "candidate")
    sources.packages["hello"] = "1.1"
    assert rebuilt()["version"] == "2.0+b1"
    assert rebuilt("base@stable")["version"] == "1.2+b1"
    assert store.channels("base").versions == {"stable": "1.2", "candidate": "1.2+b1"}


def test_what_cannot_be_rebuilt_is_told(store: Store, sources: PackageSources, tmp_path: Path) -> None:
    assert "name profiles, or take --all" in refused(2)
    assert "name profiles, or take --all" in refused(2, "base", "--all")
    assert "no profile is called other" in refused(3, "other")
    assert "has no version 9" in refused(5, "base@9")
    pass_test(publish(store, version="3"))
    run("profile", "promote", "base@3")
    assert "base@3 was not built from its recipe" in refused(5, "base@3")
    publish(store, name="loose")
    assert "loose has no stable version" in refused(5, "loose")
    assert "loose in" in run("profile", "rebuild", "--all").stderr
    source = tmp_path / "motd"
    source.write_text("hello")
    text = "name: base\nversion: {version}\nbase: debian:sid\nfiles: [{{destination: /etc/motd, source: motd}}]\n"
    image = publish_recipe(store, tmp_path, "4", text)
    assert stored_recipe(image).profile.files[0].source == source
    source.unlink()
    assert f"the recipe of base@4 needs {source}" in refused(3, "base@4")
    assert sources.builds == 2


def test_sources_that_do_not_answer_change_nothing(
    store: Store, sources: PackageSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(*_: object, **__: object) -> list[str]:
        raise BuildError("apt-get ended with 100: Failed to fetch", step="resolve")

    monkeypatch.setattr(rebuild, "resolve_packages", unreached)
    assert "Failed to fetch" in refused(1, "base")
    assert (sources.builds, store.versions("base")) == (1, ["1.2"])


def test_second_rebuild_is_refused_and_the_lock_goes_with_the_profile(store: Store) -> None:
    with rebuild_lock(store, "base"):
        assert "is being rebuilt just now" in refused(5, "base")
    assert (store.path / "base" / REBUILD_LOCK_FILE).exists()
    (store.path / "base/channels.json").unlink()
    assert run("profile", "delete", "base@1.2", "--yes", "--force").exit_code == 0
    assert not (store.path / "base").exists()


def test_full_store_changes_nothing(store: Store, sources: PackageSources, monkeypatch: pytest.MonkeyPatch) -> None:
    sources.packages["hello"] = "1.1"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rebuild, "write_rebuild_record", full)
    said = refused(4, "base")
    assert "1.2+b1 was not published" in said
    assert "No space left on device" in said
    assert store.versions("base") == ["1.2"]
    assert store.channels("base").versions == {"stable": "1.2"}
    assert not [path for path in (store.path / "base").iterdir() if path.name.startswith(".1.2")]


POINTS = ("rebuild-resolved", "rebuild-built", "rebuild-published", "rebuild-candidate")


@pytest.mark.parametrize("point", POINTS)
def test_death_leaves_the_old_or_the_new_channels_and_a_repetition_completes_it(
    store: Store, sources: PackageSources, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    sources.packages["hello"] = "1.1"
    child = os.fork()
    if child == 0:
        monkeypatch.setenv("BERTH_CRASH_AT", point)
        run("profile", "rebuild", "base")
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    is_named = point == "rebuild-candidate"
    assert store.channels("base").versions == {"stable": "1.2"} | ({"candidate": "1.2+b1"} if is_named else {})
    assert store.find("base").version == "1.2"
    published = POINTS.index(point) >= POINTS.index("rebuild-published")
    assert store.versions("base") == ["1.2", *(["1.2+b1"] if published else [])]
    assert rebuilt()["built"] is not is_named
    assert store.channels("base").versions == {"stable": "1.2", "candidate": "1.2+b1"}
    assert store.versions("base") == ["1.2", "1.2+b1"]
    assert rebuilt()["built"] is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 2}',
        '{"format": 1, "format": 1}',
        "9" * 5000,
        "[" * 100_000,
        '{"format": 1, "then": "rm"}',
    ],
    ids=range(8),
)
def test_damaged_record_is_told_and_changes_nothing(store: Store, sources: PackageSources, text: str) -> None:
    sources.packages["hello"] = "1.1"
    rebuilt()
    sources.packages["hello"] = "1.2"
    file = store.path / "base/1.2+b1" / REBUILD_FILE
    file.write_text(text)
    said = refused(1, "base")
    assert f"{file} is damaged" in said
    assert store.versions("base") == ["1.2", "1.2+b1"]
    file.unlink()
    assert rebuilt()["version"] == "1.2+b2"


def test_record_of_another_user_does_not_count(store: Store, sources: PackageSources) -> None:
    sources.packages["hello"] = "1.1"
    rebuilt()
    (store.path / "base/1.2+b1" / REBUILD_FILE).chmod(0o666)
    assert "can be changed by other users" in refused(1, "base")


def test_retired_rebuild_is_not_made_again(store: Store, sources: PackageSources) -> None:
    sources.packages["hello"] = "1.1"
    rebuilt()
    run("profile", "retire", "base@1.2+b1", "--reason", "broken")
    assert rebuilt()["built"] is False
    assert store.channels("base").versions == {"stable": "1.2"}


def test_image_without_an_inventory_is_compared_by_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.path / "base/1.2" / CYCLONEDX_NAME).unlink()
    monkeypatch.setattr("profiles.build.inventory_step.shutil.which", lambda *_, **__: None)
    assert "not installed: unsquashfs" in refused(1, "base")
    assert builder.TOOLS["unsquashfs"] == "squashfs-tools"
