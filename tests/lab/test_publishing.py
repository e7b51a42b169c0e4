"""Builds that publish a version, fail, race, or are ended: all or nothing of it is in the store."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.deadlines import DEADLINE_S
from tests.lab import images
from tests.lab.images import ROOM, STORE, built, inside, workspaces, write
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab_cluster import Lab


@pytest.fixture(scope="module")
def base(lab: Lab, room: str) -> str:
    """The image that is there already, which all of these start from."""
    assert room == ROOM
    return images.published(lab, "base")


class TestStore:
    """A version is published whole, once, or not at all."""

    def test_of_two_builders_of_a_version_one_wins(self, lab: Lab, base: str) -> None:
        recipe = write(lab, "raced.yaml", f"name: raced\nversion: 1\nbase: sif:{base}\n")
        argv = images.build_argv(lab, recipe, STORE, "alice")
        racers = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        ends = [images.told(racer.communicate(timeout=images.SECONDS)[0].decode()).end for racer in racers]
        won, lost = sorted(ends, key=lambda end: not end["built"])
        assert (won["built"], lost["built"], lost["digest"]) == (True, False, won["digest"])
        assert "sha256:" + lab.sh(f"sha256sum {won['path']}").split()[0] == won["digest"]
        assert lab.sh(f"ls -A {STORE}/raced") == "1"

    @pytest.mark.parametrize(
        ("text", "step", "said"),
        [
            ("post: |\n  echo so far\n  false | cat\n  touch /never\n", "post", "so far"),
            pytest.param("apt: [no-such-package]\n", "packages", "no-such-package", marks=pytest.mark.soak),
            pytest.param("pip: [no-such-package-at-all]\n", "pip", "no-such-package-at-all", marks=pytest.mark.soak),
        ],
    )
    def test_a_failed_step_is_named_with_its_log_and_remedy(
        self, lab: Lab, base: str, text: str, step: str, said: str
    ) -> None:
        failed = built(lab, "failing", f"name: failing\nversion: 1\nbase: sif:{base}\n{text}")
        assert failed.end["error"] == "BuildError"
        assert failed.end["message"].startswith(f"step {step} failed")
        assert said in failed.end["message"]
        assert failed.end["hint"]
        assert failed.end["log"] == f"{STORE}/failing/1.failed.log"
        assert said in lab.sh(f"cat {failed.end['log']}")
        assert lab.sh(f"ls -A {STORE}/failing") == "1.failed.log"
        assert workspaces(lab) == ""

    def test_without_subordinate_ids_the_remedy_is_told(self, lab: Lab, base: str) -> None:
        lab.sh(f"install -d -m 1777 {ROOM}/nobodys")
        recipe = write(lab, "no-ids.yaml", f"name: no-ids\nversion: 1\nbase: sif:{base}\n")
        failed = images.build(lab, recipe, f"{ROOM}/nobodys", "berth").end
        assert "user namespaces do not work here" in failed["message"]
        assert "/etc/subuid" in failed["hint"]

    @pytest.mark.soak
    def test_root_can_build_too(self, lab: Lab, base: str) -> None:
        recipe = f"name: roots\nversion: 1\nbase: sif:{base}\npost: touch /opt/roots\n"
        made = built(lab, "roots", recipe, user="root")
        assert inside(lab, made.image, "ls /opt/roots") == "/opt/roots\n"
        assert workspaces(lab) == ""


@contextlib.contextmanager
def building(lab: Lab, image: str) -> Iterator[subprocess.Popen[bytes]]:
    """A build that has unpacked its base and now waits in its own script, for good."""
    recipe = write(lab, "endless.yaml", f"name: endless\nversion: 1\nbase: sif:{image}\npost: sleep 86399\n")
    argv = images.build_argv(lab, recipe, STORE, "alice")
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: sleepers(lab) != "", what="the script of the build", seconds=60)
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def sleepers(lab: Lab) -> str:
    return lab.sh("pgrep -u alice -x -f 'sleep 86399' || :")


def builder_pid(lab: Lab) -> str:
    return lab.sh("pgrep -u alice -f '^/opt/berth/venv/bin/python -B -c'")


class TestEndings:
    """A build that is ended from outside leaves no process, no trace in the store, and no folder for good."""

    def test_an_interrupted_build_cleans_up(self, lab: Lab, base: str) -> None:
        with building(lab, base) as process:
            lab.sh(f"kill -{signal.SIGTERM} {builder_pid(lab)}")
            out, _ = process.communicate(timeout=60)
        assert images.told(out.decode()).end == {"error": "KeyboardInterrupt"}
        assert (sleepers(lab), workspaces(lab), lab.sh(f"ls -A {STORE}/endless")) == ("", "", "")

    @pytest.mark.soak
    def test_a_killed_build_takes_its_processes_along_and_is_swept(self, lab: Lab, base: str) -> None:
        with building(lab, base) as process:
            lab.sh(f"kill -{signal.SIGKILL} {builder_pid(lab)}")
            process.communicate(timeout=60)
        wait_for(lambda: sleepers(lab) == "", what="the end of the build's processes")
        assert lab.sh(f"ls {STORE}/endless") == "", "nothing is visible"
        assert workspaces(lab) != ""
        built(lab, "after", f"name: after\nversion: 1\nbase: sif:{base}\n")
        assert workspaces(lab) == ""
