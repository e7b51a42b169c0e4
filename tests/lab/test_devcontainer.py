"""`berth up` in a repository, on a login node without network: image, session, commands, and a second run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.images import SITE_STORE
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.conftest import User

HERE = "/shared/home/alice/solver-repo"
NAME = "solver-repo"
SECONDS = 240.0

FEATURE = {
    "id": "tool",
    "version": "1.2.0",
    "options": {"greeting": {"type": "string", "default": "hello"}},
    "containerEnv": {"TOOL_HOME": "/opt/tool"},
    "postCreateCommand": "echo feature >>$HOME/order",
}
INSTALL = """#!/bin/sh
set -e
mkdir -p "$TOOL_HOME"
printf '#!/bin/sh\\necho "%s"\\n' "$GREETING" >"$TOOL_HOME/greet"
chmod 755 "$TOOL_HOME/greet"
"""
CONFIG = {
    "name": "Solver",
    "image": "registry.example.org/solver/base:1",
    "customizations": {
        "vscode": {"extensions": ["ms-python.python"]},
        "berth": {"resources": {"time": "30", "mem": "400M"}},
    },
    "features": {"./tool": {"greeting": "good day"}},
    "containerEnv": {"SOLVER": "in the image $HOME"},
    "remoteEnv": {"SOLVER_REMOTE": "${containerEnv:SOLVER}, remote", "PATH": "${containerEnv:PATH}:/opt/tool"},
    "hostRequirements": {"cpus": 1, "gpu": "optional"},
    "forwardPorts": [8000],
    "portsAttributes": {"8000": {"label": "Results"}},
    "mounts": ["source=cache,target=/var/cache/solver,type=volume"],
    "privileged": True,
    "runArgs": ["--cap-add=SYS_PTRACE"],
    "onCreateCommand": {"one": "echo one >$HOME/one", "two": ["touch", "/var/cache/solver/two"]},
    "postCreateCommand": 'greet >>$HOME/order; echo "$SOLVER_REMOTE in $PWD" >>$HOME/order',
    "postStartCommand": "echo started >>$HOME/order",
}


class Repository:
    """Alice's repository on the login node."""

    def __init__(self, alice: User) -> None:
        self.alice = alice

    def write(self, name: str, text: str) -> None:
        script = f'mkdir -p "$(dirname {HERE}/{name})"; cat >{HERE}/{name}'
        done = self.alice.site.lab.run(["sh", "-c", script], user="alice", stdin=text.encode())
        assert done.returncode == 0, done.stderr.decode()

    def configure(self, **change: Any) -> None:  # noqa: ANN401 - any JSON
        versions = self.alice.site.lab.sh(f"ls {SITE_STORE}/base").split()
        config = json.loads(json.dumps(CONFIG))
        config["customizations"]["berth"]["base"] = f"profile:base@{versions[-1]}"
        text = json.dumps(config | change)
        self.write(".devcontainer/devcontainer.json", f"// for the team\n{text[:-1]},}}\n")

    def up(self, *more: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.alice.ok("up", HERE, "--json", *more, seconds=SECONDS))
        return answer

    def inside(self, script: str) -> str:
        return self.alice.ok("exec", NAME, "--", "bash", "-lc", script)


@pytest.fixture(scope="module")
def repository(people: dict[str, User]) -> Iterator[Repository]:
    alice = people["alice"]
    made = Repository(alice)
    made.configure()
    made.write(".devcontainer/tool/devcontainer-feature.json", json.dumps(FEATURE))
    made.write(".devcontainer/tool/install.sh", INSTALL)
    made.write("src/main.py", "print('solved')\n")
    yield made
    if alice.knows(NAME):
        alice.remove(NAME)
    alice.site.lab.sh(f"rm -rf {HERE}; rm -rf /shared/berth/alice/profiles/{NAME}")


def test_repository_comes_up_and_the_second_time_nothing_is_built(repository: Repository) -> None:
    first = repository.up()
    assert first["built"] is True
    assert first["session"]["state"] == "ready"
    assert first["services"] == ["port-8000"]
    assert [title.split()[0] for title in first["hooks"]] == [
        "onCreateCommand", "postCreateCommand", "postCreateCommand", "postStartCommand",
    ]  # fmt: skip
    assert first["vscode"].endswith(f"/workspaces/{NAME}")
    ignored = {entry["key"]: entry for entry in first["report"] if entry["verdict"] == "ignored"}
    assert ignored.keys() >= {"privileged", "runArgs", "image"}
    assert ignored["privileged"]["important"]

    order = ["feature", "good day", "in the image $HOME, remote in /workspaces/solver-repo", "started"]
    assert repository.inside("cat ~/order").splitlines() == order
    assert repository.inside("cat ~/one /var/cache/solver/two; cat /workspaces/solver-repo/src/main.py").split() == [
        "one", "print('solved')",
    ]  # fmt: skip
    assert repository.inside("cat ~/.config/berth/vscode-extensions; stat -c %a ~/.config/berth/environment.sh") == (
        "ms-python.python\n600\n"
    )

    second = repository.up()
    assert second["built"] is False
    assert second["hooks"] == []
    assert second["version"] == first["version"]
    assert second["session"]["job_id"] == first["session"]["job_id"]


def test_change_of_a_feature_is_taken_at_the_next_start_and_its_commands_run_again(repository: Repository) -> None:
    before = repository.up()
    repository.write(".devcontainer/tool/install.sh", INSTALL.replace("%s", "%s, changed"))
    running = repository.up()
    assert running["built"] is True
    assert running["session"]["version"] == before["version"]
    assert repository.inside("greet") == "good day\n"
    repository.alice.ok("stop", NAME)
    wait_for(lambda: repository.alice.show(NAME)["state"] == "stopped", what="the session to stop")
    moved = repository.up()
    assert moved["built"] is False
    assert moved["session"]["version"] == running["version"]
    assert repository.inside("greet") == "good day, changed\n"
    assert len(moved["hooks"]) == 4


def test_failing_command_ends_the_run_with_its_last_words_and_runs_again(repository: Repository) -> None:
    repository.up()
    repository.configure(postAttachCommand=["sh", "-c", "echo no such planet; exit 7"])
    done = repository.alice.berth("up", HERE, seconds=SECONDS)
    assert done.returncode == 1
    assert "postAttachCommand failed with exit code 7" in done.stderr.decode()
    assert "| no such planet" in done.stderr.decode()
    repository.configure(postAttachCommand="true")
    assert repository.up()["hooks"] == ["postAttachCommand"]


def test_dry_run_changes_nothing(repository: Repository) -> None:
    repository.configure(containerEnv={"NEW": "1"})
    printed = json.loads(repository.alice.ok("up", HERE, "--dry-run", "--json"))
    assert printed["name"] == NAME
    versions = repository.alice.site.lab.sh(f"ls /shared/berth/alice/profiles/{NAME}").split()
    assert printed["version"] not in versions


def test_session_of_that_name_that_was_not_made_from_this_folder_is_left_alone(
    repository: Repository, image: str, tmp_path: Path
) -> None:
    """Neither one of the site's profile with the folder's name, nor one of another folder of that name."""
    alice, lab = repository.alice, repository.alice.site.lab
    alice.ok("start", image, "--profile", image, "--no-wait")
    try:
        for name, said in ((image, f"a session of {image}@"), (NAME, f"the session of {HERE}/.devcontainer/")):
            other = f"/shared/home/alice/{tmp_path.name}/{name}"
            lab.run(["sh", "-c", f"mkdir -p {other}; cp -r {HERE}/.devcontainer {other}"], user="alice")
            refused = alice.berth("up", other)
            assert (refused.returncode, "not of this folder" in refused.stderr.decode()) == (5, True)
            assert said in refused.stderr.decode()
            assert "berth up --name NAME" in refused.stderr.decode()
            assert "building" not in refused.stderr.decode()
    finally:
        alice.remove(image)
        lab.sh(f"rm -rf /shared/home/alice/{tmp_path.name}")
