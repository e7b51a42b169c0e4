"""`berth up` before anything is built: which repository, what it reports, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.fakes.command_line import run
from tests.unit.profiles.dev_features import write_feature

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.controller import ScriptedController

DEBIAN = {"berth": {"base": "debian:sid"}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def repository(controller: ScriptedController, tmp_path: Path) -> Path:
    assert controller.asked == []
    folder = tmp_path / "My_Solver 2"
    write_feature(folder / ".devcontainer/tool")
    return folder


def configure(repository: Path, **data: object) -> None:
    text = json.dumps({"customizations": DEBIAN, **data})
    (repository / ".devcontainer/devcontainer.json").write_text(text)


def test_dry_run_reports_every_key_and_asks_nothing(controller: ScriptedController, repository: Path) -> None:
    configure(repository, features={"./tool": {}}, runArgs=["--gpus=all"], postCreateCommand="make", wrong=1)
    answer = json.loads(run("up", str(repository), "--dry-run", "--json").stdout)
    assert answer["name"] == "my-solver-2"
    assert len(answer["version"]) == 16
    assert [(each["key"], each["verdict"]) for each in answer["report"]] == [
        ("customizations.berth.base", "taken"),
        ("feature ./tool", "taken"),
        ("postCreateCommand", "taken"),
        ("runArgs", "ignored"),
        ("wrong", "ignored"),
    ]
    table = run("up", str(repository), "--dry-run").stdout
    assert "runArgs" in table
    assert controller.asked == []


def test_key_changes_with_what_the_build_reads_only(repository: Path) -> None:
    def version(**data: object) -> str:
        configure(repository, **data)
        return str(json.loads(run("up", str(repository), "--dry-run", "--json").stdout)["version"])

    plain = version()
    assert version(forwardPorts=[80], postStartCommand="x", remoteEnv={"A": "b"}, hostRequirements={"cpus": 2}) == plain
    (repository / "README").write_text("x")
    assert version() == plain
    assert len({plain, version(containerEnv={"A": "b"}), version(features={"./tool": {}})}) == 3
    before = version(features={"./tool": {}})
    assert version(features={"./tool": {"x": "y"}}) != before
    (repository / ".devcontainer/tool/install.sh").write_text("#!/bin/sh\necho changed\n")
    assert version(features={"./tool": {}}) != before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["up", "nowhere"], 2, "nowhere does not exist"),
        (["up", "."], 3, "has no devcontainer.json"),
        (["up", ".", "again"], 2, "is not an option of sbatch"),
        (["up", "--mem"], 2, "--mem needs a value"),
        (["up", "--comment=x"], 2, "--comment"),
        (["up", "--config", "gpu"], 3, "has no gpu"),
        (["up", "--name", "A B"], 2, "cannot be a name"),
    ],
)
def test_wrong_words_are_refused(controller: ScriptedController, words: list[str], code: int, said: str) -> None:
    result = run(*words)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert controller.asked == []


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        ({"features": {"./none": {}}}, 1, "has no devcontainer-feature.json"),
        ({"features": {"node": {}}}, 1, "the feature 'node' must be"),
        ({"features": {"./tool": {}}, "customizations": {"berth": {"base": "docker:x"}}}, 2, "must be debian:<suite>"),
        ({"customizations": {}, "image": "debian:12"}, 2, "has no registry"),
        ({"customizations": {}, "build": {"dockerfile": "none"}}, 2, "there is no"),
        ({"customizations": {}, "build": {"dockerfile": "tool/install.sh", "context": "../.."}}, 2, "leads out of"),
        ({"customizations": {}, "build": {"dockerfile": "../../passwd"}}, 2, "leads out of"),
        ({"customizations": {"berth": {"base": "profile:none@1"}}}, 3, "none"),
        ({"customizations": {"berth": {"base": "oci-archive:none.tar"}}}, 3, "is not there"),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is_asked(
    controller: ScriptedController, repository: Path, data: dict[str, object], code: int, said: str
) -> None:
    configure(repository, **data)
    result = run("up", str(repository))
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert controller.asked == []
