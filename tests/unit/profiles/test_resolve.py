"""The words of apt and pip about a build of today, and the comparison with an image."""

from __future__ import annotations

import json

import pytest

from profiles.build.loaded_recipe import LoadedRecipe
from profiles.build.rebuild import family_of, refreshed_key
from profiles.build.resolve import _debian_lines, _python_lines, installed_lines
from profiles.errors import BuildError
from profiles.image.rebuild_record import MAX_SUMMARY_CHARS, RecordedChange, summarize_changes
from profiles.inventory.model import InstalledPackage, Inventory, PackageKind
from profiles.recipe.spec import parse_profile
from tests.fakes.rebuilds import PackageSources

SIMULATION = """
Reading package lists...
Inst libc6 (2.43-7 Debian:unstable [amd64]) []
Inst hello [2.10-3] (2.10-5 localhost [all])
Inst libfoo:i386 (1:2.0~rc1-1+b2 Debian:unstable [i386])
Conf libc6 (2.43-7 Debian:unstable [amd64])
"""


def test_simulation_of_apt_is_read() -> None:
    assert _debian_lines(SIMULATION) == {"deb libc6 2.43-7", "deb hello 2.10-5", "deb libfoo:i386 1:2.0~rc1-1+b2"}
    assert _debian_lines("hello is already the newest version\n") == set()


def test_report_of_pip_is_read() -> None:
    report = {"install": [{"metadata": {"name": "Typing_Extensions", "version": "4.1"}}]}
    assert _python_lines(json.dumps(report)) == {"pypi typing-extensions 4.1"}


@pytest.mark.parametrize(
    "report",
    [
        "",
        "[]",
        "{}",
        '{"install": 1}',
        '{"install": [{}]}',
        '{"install": [{"metadata": {"name": "a b", "version": ""}}]}',
        "[" * 100_000,
    ],
)
def test_other_report_is_refused(report: str) -> None:
    with pytest.raises(BuildError, match="pip"):
        _python_lines(report)


def test_lines_of_an_image_are_those_of_the_same_packages() -> None:
    inventory = PackageSources({"hello": "1.0"}).inventory()
    assert installed_lines(["deb bash 5.2", "deb hello 1.1", "deb new 1"], inventory) == [
        "deb bash 5.2",
        "deb hello 1.0",
    ]
    several = Inventory(
        inventory.origin,
        inventory.system,
        tuple(InstalledPackage(PackageKind.PYPI, "six", version) for version in ("1.16", "1.17")),
        (),
        (),
    )
    assert installed_lines(["pypi six 1.17"], several) == ["pypi six 1.17"]
    assert refreshed_key("key", ["a"]) != refreshed_key("key", ["b"]) != refreshed_key("other", ["b"])


def test_family_of_a_version() -> None:
    assert [family_of(each) for each in ("1.2", "1.2+b1", "1.2+b10", "1.2+build", "1.2+b0", "1+b1+b2")] == [
        "1.2", "1.2", "1.2", "1.2+build", "1.2+b0", "1+b1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "name: mine\nversion: 1\nbase: debian:sid\n",
        "name: mine\nversion:   '1'   # first\nbase: debian:sid\npost: |\n  echo\n  version: 7\n",
        "{name: mine, version: 1, base: 'debian:sid'}\n",
        "name: mine\nversion:\n  1\nbase: debian:sid\n",
        "post: |\n version: 3\nname: mine\nversion: 1\nbase: debian:sid\n",
    ],
)
def test_recipe_gets_another_version_and_nothing_else(text: str) -> None:
    from pathlib import Path  # noqa: PLC0415 - only here

    path = Path("/recipes/profile.yaml")
    before = parse_profile(text, path)
    after = LoadedRecipe(before, text).with_version("1+b1")
    assert parse_profile(after.text, path) == before.model_copy(update={"version": "1+b1"}) == after.profile


def test_summary_is_one_short_line() -> None:
    changes = [RecordedChange(kind="deb", name=f"package{number}", before="1", after="2") for number in range(40)]
    changes += [RecordedChange(kind="file", name="/opt/\x1b", before="", after="0" * 64)]
    said = summarize_changes(changes)
    assert said.startswith("package0 1 -> 2, package1 1 -> 2, ")
    assert said.endswith(" more")
    assert len(said) <= MAX_SUMMARY_CHARS
    assert said.isprintable()
    assert summarize_changes([]) == "no package and no program differs"
    assert summarize_changes(changes[-1:]) == "1 programs of no package"
