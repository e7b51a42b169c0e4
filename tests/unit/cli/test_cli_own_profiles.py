"""`berth profile` with a user's own store beside the site's: where it publishes, what it lists, and whose that is."""

from __future__ import annotations

import json
import os
import pwd
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml

from broker import errors
from broker.cli.params import ProfileName
from profiles.build.result import BuildResult
from profiles.commit import commit as committing
from profiles.commit.generate_recipe import generate_recipe
from profiles.errors import ProfileError
from profiles.image.own_store import OwnStore
from profiles.image.store import Image, Store
from profiles.recipe.spec import parse_profile
from tests.fakes.command_line import run
from tests.fakes.core import publish
from tests.fakes.sif import squashfs_sif
from tests.unit.cli.test_cli_commit import FOUND, controller  # noqa: F401 - a session with snapshots

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from profiles.commit.commit import Source
    from profiles.commit.findings import Findings
    from profiles.image.catalog import Catalog
    from tests.fakes.controller import ScriptedController


@pytest.fixture
def site(controller: ScriptedController, tmp_path: Path) -> Store:  # noqa: F811 - the fixture
    """The site's store, which has base@1."""
    assert controller.asked == []
    return Store(tmp_path / "store")


@pytest.fixture
def own(tmp_path: Path) -> OwnStore:
    return OwnStore(tmp_path / "shared" / pwd.getpwuid(os.getuid()).pw_name / "profiles")


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user may not write to the site's store; root may, whatever its mode is."""
    monkeypatch.setattr("broker.cli.stores._is_writable", lambda _: False)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Store, Catalog]]:
    """The store and the bases of each build, without the work."""
    seen: list[tuple[Store, Catalog]] = []

    def build(recipe: Path, *, store: Store, bases: Catalog, **_: Any) -> BuildResult:  # noqa: ANN401 - not looked at
        seen.append((store, bases))
        profile = parse_profile(recipe.read_text(), recipe)
        image = publish(store, profile.name, profile.version, content=squashfs_sif(b"built"))
        return BuildResult(image, built=True)

    monkeypatch.setattr("profiles.build.builder.build", build)
    return seen


def publish_own(store: Store, name: str = "mine", version: str = "1") -> Image:
    return publish(store, name, version, content=squashfs_sif(f"{name}{version}".encode()))


def recipe(tmp_path: Path, name: str = "mine") -> str:
    file = tmp_path / f"{name}.yaml"
    file.write_text(f"name: {name}\nversion: 1\nbase: profile:base@1\n")
    return str(file)


def test_list_and_show_say_the_owner(site: Store, own: OwnStore) -> None:
    publish_own(own)
    publish_own(own, "base", "2")
    rows = [line.split()[:4] for line in run("profile", "list").stdout.splitlines()]
    assert rows[0] == ["NAME", "VERSION", "OWNER", "CHANNEL"]
    assert rows[1:] == [
        ["base", "1", "site", "newest"],
        ["base", "2", "own", "newest"],
        ["mine", "1", "own", "newest"],
    ]
    listed = json.loads(run("profile", "list", "--json").stdout)["profiles"]
    assert [(each["name"], each["owner"]) for each in listed] == [("base", "site"), ("base", "own"), ("mine", "own")]
    assert yaml.safe_load(run("profile", "show", "mine").stdout)["owner"] == "own"
    assert yaml.safe_load(run("profile", "show", "site/base").stdout)["digest"] == site.find("base").digest
    assert yaml.safe_load(run("profile", "show", "own/base").stdout)["digest"] == own.find("base").digest
    refused = run("profile", "show", "base")
    assert refused.exit_code == errors.ExitCode.USAGE
    assert "the site and you each have a profile base" in refused.stderr
    assert "say which: site/base or own/base" in refused.stderr


@pytest.mark.usefixtures("site")
def test_list_shows_one_store_on_request(own: OwnStore, tmp_path: Path) -> None:
    publish_own(own)
    publish(Store(tmp_path / "else"), "far")
    for store, expected in [
        ("own", [("mine", "own")]),
        ("site", [("base", "site")]),
        (str(own.path), [("mine", "own")]),
        (str(tmp_path / "else"), [("far", "other")]),
    ]:
        listed = json.loads(run("profile", "list", "--store", store, "--json").stdout)["profiles"]
        assert [(each["name"], each["owner"]) for each in listed] == expected


@pytest.mark.usefixtures("site")
def test_damaged_own_image_is_listed_and_reported_by_doctor(own: OwnStore) -> None:
    publish_own(own)
    assert "images of your own: 1, of mine" in run("doctor").stdout
    image = publish_own(own, "bad")
    image.path.unlink()
    os.mkfifo(image.path)
    listed = run("profile", "list")
    assert "mine" in listed.stdout
    assert f"damaged: {image.path} is a named pipe, and must be a regular file" in listed.stderr
    doctor = run("doctor")
    assert doctor.exit_code == 1
    assert "delete this one" in doctor.stdout
    assert f"{image.path} is a named pipe" in doctor.stdout
    assert run("profile", "delete", "bad@1", "--yes").exit_code == 0
    assert own.names() == ["mine"]


@pytest.mark.usefixtures("ordinary")
def test_build_of_an_ordinary_user_goes_to_the_own_store(
    site: Store, own: OwnStore, builds: list[tuple[Store, Catalog]], tmp_path: Path
) -> None:
    result = run("profile", "build", recipe(tmp_path))
    assert result.exit_code == 0, result.stderr
    [(target, bases)] = builds
    assert (type(target), target.path) == (OwnStore, own.path)
    assert bases.find("base", "1") == site.find("base")
    assert f"Publishing in your own store {own.path}: you may not write to {site.path}" in result.stderr
    assert "Publishing" not in run("profile", "build", "nosuch").stderr, "nothing will be published"
    assert result.stdout.startswith("mine@1 sha256:")
    assert own.versions("mine") == ["1"]
    shown = json.loads(run("profile", "build", recipe(tmp_path, "other"), "--json").stdout)
    assert shown["owner"] == "own"


def test_build_goes_where_store_says_and_still_finds_all_bases(
    site: Store, own: OwnStore, builds: list[tuple[Store, Catalog]], tmp_path: Path
) -> None:
    publish_own(own, "helper")
    elsewhere = tmp_path / "else"
    for number, (store, path) in enumerate(
        [
            (None, site.path),
            ("site", site.path),
            ("own", own.path),
            (str(own.path), own.path),
            (str(elsewhere), elsewhere),
        ]
    ):
        words = ["profile", "build", recipe(tmp_path, f"p{number}"), *(["--store", store] if store else [])]
        result = run(*words)
        assert result.exit_code == 0, result.stderr
        target, bases = builds[-1]
        assert target.path == path
        assert bases.find("base", "1") == site.find("base")
        assert bases.find("own/helper", "1") == own.find("helper")
        assert ("No session finds p4@1" in result.stderr) == (path == elsewhere)


@pytest.mark.usefixtures("site", "builds", "ordinary")
def test_build_under_a_name_of_the_site_says_how_to_start_it(tmp_path: Path) -> None:
    result = run("profile", "build", recipe(tmp_path, "base"))
    assert "`--profile own/base` starts this one" in result.stderr


def test_own_image_is_deleted_and_the_sites_stays(site: Store, own: OwnStore) -> None:
    same = squashfs_sif(b"same")
    publish(site, "copied", content=same)
    publish(own, "copied", content=same)
    assert run("profile", "delete", "copied@1", "--yes").exit_code == errors.ExitCode.USAGE
    assert (site.versions("copied"), own.versions("copied")) == (["1"], ["1"])
    publish_own(own, "base")
    refused = run("profile", "delete", "base@1", "--yes")
    assert refused.exit_code == errors.ExitCode.USAGE
    assert "site/base@1 or own/base@1" in refused.stderr
    assert run("profile", "delete", "own/base@1", "--yes").exit_code == 0
    assert (site.versions("base"), own.versions("base")) == (["1"], [])
    assert run("profile", "verify", "own/base@1").exit_code == errors.ExitCode.NOT_FOUND


def complete_profile() -> list[str]:
    context, option = click.Context(click.Command("start")), click.Option(["--profile"])
    return [str(item.value) for item in ProfileName().shell_complete(context, option, "")]


@pytest.mark.usefixtures("site")
def test_completion_offers_owners_only_where_they_are_needed(own: OwnStore) -> None:
    publish_own(own)
    assert complete_profile() == ["base", "base@1", "mine", "mine@1"]
    publish_own(own, "base", "2")
    assert complete_profile() == ["mine", "mine@1", "own/base", "own/base@2", "site/base", "site/base@1"]


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Source, Store]]:
    seen: list[tuple[Source, Store]] = []

    def commit(
        source: Source,
        *,
        name: str,
        version: str,
        store: Store,
        approve: Callable[[Findings], None],
        **_: Any,  # noqa: ANN401 - what is not looked at
    ) -> Image:
        seen.append((source, store))
        approve(FOUND)
        return publish(store, name, version, content=squashfs_sif(version.encode()))

    monkeypatch.setattr(committing, "commit_session", commit)
    return seen


def test_commit_goes_to_the_store_that_its_name_says(
    controller: ScriptedController,  # noqa: F811 - the fixture
    site: Store,
    own: OwnStore,
    commits: list[tuple[Source, Store]],
) -> None:
    refused = run("profile", "commit", "dev", "own/mine@1", "--yes", "--store", "site")
    assert (refused.exit_code, len(commits)) == (errors.ExitCode.USAGE, 0)
    assert "own/ and --store site name two stores" in refused.stderr
    for wanted in ("own/mine@1", "site/mine@2"):
        result = run("profile", "commit", "dev", wanted, "--yes", "--at", "good")
        assert result.exit_code == 0, result.stderr
    digest = own.find("mine").digest
    made_of_own = controller.snapshots["dev"][0].model_copy(update={"profile": "mine", "digest": digest})
    controller.snapshots["dev"][0] = made_of_own
    assert run("profile", "commit", "dev", "mine@3", "--yes", "--at", "good", "--store", "own").exit_code == 0
    assert [store.path for _, store in commits] == [own.path, site.path, own.path]
    assert [(source.base.name, source.owner) for source, _ in commits] == [("base", ""), ("base", ""), ("mine", "own/")]


def test_recipe_of_a_commit_names_the_own_base(own: OwnStore, tmp_path: Path) -> None:
    base = publish_own(own)
    text = generate_recipe("next", "1", base, FOUND, "Committed.", owner="own/")
    profile = parse_profile(text, tmp_path / "profile.yaml")
    assert (str(profile.base), profile.base.reference) == ("profile:own/mine@1", "own/mine")
    with pytest.raises(ProfileError, match="debian:<suite>"):
        parse_profile(text.replace("own/mine", "other/mine"), tmp_path / "profile.yaml")
