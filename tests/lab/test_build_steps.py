"""Real builds of a small system by an ordinary user: the cache of steps, and builds in jobs."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from slurm.lab.spec import LOGIN
from tests.busybox_image import write_busybox_archive
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab_cluster import Lab

PLACE = "/shared/build-steps"
"""A folder of alice's on a disk: the node's own directories are in memory, or an overlay themselves."""
USER = "alice"
CACHE = f"{PLACE}/work/berth-steps-5001"
FILLING = ["fetch", "unpack", "packages", "files", "post"]
ALL = ["check", *FILLING, "finish", "inventory", "squashfs", "image"]


@pytest.fixture
def place(lab: Lab) -> Iterator[str]:
    """An empty folder with the archive of a small system, and an empty cache."""
    lab.sh(f"rm -rf {PLACE}; install -d -o {USER} {PLACE} {PLACE}/work")
    write_busybox_archive(lab.shared / PLACE.removeprefix("/shared/") / "image.tar")
    yield PLACE
    lab.sh(f"rm -rf {PLACE}")


def recipe(lab: Lab, name: str, version: str = "1", *, content: str = "x", post: str = "echo hi >/opt/post") -> None:
    file = {"destination": "/opt/file", "content": content}
    text = {"name": name, "version": version, "base": "oci-archive:image.tar", "files": [file], "post": post}
    (lab.shared / PLACE.removeprefix("/shared/") / f"{name}.yaml").write_text(json.dumps(text))


def command(name: str) -> list[str]:
    words = ["berth", "profile", "build", f"{PLACE}/{name}.yaml", "--store", f"{PLACE}/store", "--json"]
    return ["env", f"TMPDIR={PLACE}/work", *words]


def built(lab: Lab, name: str) -> dict[str, Any]:
    done = lab.run(command(name), user=USER, seconds=DEADLINE_S)
    assert done.returncode == 0, done.stderr.decode()
    image: dict[str, Any] = json.loads(done.stdout)
    return image


def steps_run(image: dict[str, Any]) -> list[str]:
    """The steps that were not taken from the cache."""
    assert [step["name"] for step in image["steps"]] == ALL
    return [step["name"] for step in image["steps"] if step["name"] in FILLING and not step["cached"]]


def content(lab: Lab, image: dict[str, Any], *paths: str) -> str:
    described = json.loads(lab.sh(f"cat {image['path'].removesuffix('image.sif')}image.json"))
    return lab.sh(f"unsquashfs -o {described['offset']} -cat {image['path']} {' '.join(paths)}")


def test_changed_step_is_run_with_all_after_it_and_nothing_before(lab: Lab, place: str) -> None:
    recipe(lab, "steps", "1")
    assert steps_run(built(lab, "steps")) == FILLING
    lab.sh(f"touch {place}/README {place}/image.tar")
    recipe(lab, "steps", "2")
    again = built(lab, "steps")
    assert (steps_run(again), content(lab, again, "opt/file", "opt/post")) == ([], "xhi")
    recipe(lab, "steps", "3", post="rm -r /opt/folder; mkdir /opt/folder; echo new >/opt/post")
    changed = built(lab, "steps")
    assert (steps_run(changed), content(lab, changed, "opt/file", "opt/post")) == (["post"], "xnew")
    inner = f"unsquashfs -o {json.loads(lab.sh(f'cat {place}/store/steps/3/image.json'))['offset']} -lc"
    assert "opt/folder/old" not in lab.sh(f"{inner} {changed['path']} opt"), "a directory that was replaced is new"
    recipe(lab, "steps", "4", content="y")
    assert steps_run(built(lab, "steps")) == ["files", "post"]
    assert lab.sh(f"ls -d {place}/work/berth-build-* 2>/dev/null || :") == ""


def test_build_after_one_that_was_killed_goes_on_after_its_last_complete_step(lab: Lab, place: str) -> None:
    recipe(lab, "killed", post="echo begun >/opt/post; sleep 600")
    words = [word for word in command("killed") if word != "--json"]
    with lab.popen(["sh", "-c", 'echo $$; exec "$@" 2>&1', "sh", *words], user=USER, node=LOGIN) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        for line in process.stdout:
            if b"] post" in line:
                break
        lab.sh(f"kill -KILL {pid}")
        process.wait(DEADLINE_S)
    recipe(lab, "killed", post="test ! -e /opt/post; echo done >/opt/post")
    image = built(lab, "killed")
    assert (steps_run(image), content(lab, image, "opt/post")) == (["post"], "done")
    assert lab.sh(f"ls -d {place}/work/berth-build-* 2>/dev/null || :") == "", "what the killed build left is removed"


def test_builds_at_once_share_the_cache_and_do_not_mix(lab: Lab, place: str) -> None:
    names = ["one", "two", "three"]
    for name in names:
        recipe(lab, name, post=f"echo {name} >/opt/post")
    images = []
    with ExitStack() as running:
        for process in [running.enter_context(lab.popen(command(name), user=USER)) for name in names]:
            output, errors = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0, errors.decode()
            images.append(json.loads(output))
    assert [content(lab, image, "opt/file", "opt/post") for image in images] == [f"x{name}" for name in names]
    layers = lab.sh(f"cat {CACHE}/*/layer.json")
    assert [layers.count(f'"step": "{step}"') for step in FILLING[1:]] == [1, 1, 1, 3]
    assert lab.sh(f"ls -A {place}/work") == "berth-steps-5001"


@pytest.mark.usefixtures("place")
def test_layer_that_was_changed_and_a_cache_of_somebody_else_are_not_used(lab: Lab) -> None:
    recipe(lab, "damaged", "1")
    built(lab, "damaged")
    lab.sh(f"echo stranger >$(dirname $(grep -l '\"files\"' {CACHE}/*/layer.json))/tree/opt/file")
    recipe(lab, "damaged", "2")
    image = built(lab, "damaged")
    assert (steps_run(image), content(lab, image, "opt/file")) == (["files", "post"], "x")
    lab.sh(f"chown -h bob {CACHE}")
    before = lab.sh(f"ls -lRn {CACHE}")
    recipe(lab, "damaged", "3")
    assert steps_run(built(lab, "damaged")) == FILLING
    assert lab.sh(f"ls -lRn {CACHE}") == before


def job_argv(name: str, *options: str) -> list[str]:
    return [word for word in command(name) if word != "--json"] + ["--job", *options]


def test_build_in_a_job_gives_its_output_and_its_exit_code(lab: Lab, place: str) -> None:
    recipe(lab, "job", post="echo in a job >/opt/post")
    done = lab.run([*job_argv("job", "--mem=300M", "--time=10"), "--json"], user=USER, seconds=DEADLINE_S)
    assert done.returncode == 0, done.stderr.decode()
    image = json.loads(done.stdout)
    assert (steps_run(image), image["path"]) == (FILLING, f"{place}/store/job/1/image.sif")
    named = lab.sh(f"sacct -n -P -u {USER} -X --name=berth-build -o State,ReqMem,Timelimit,NodeList").splitlines()
    assert named[-1].startswith("COMPLETED|300M|00:10:00|c")
    jobs = len(named)
    again = lab.run(job_argv("job"), user=USER, seconds=DEADLINE_S)
    assert (again.returncode, b"Nothing was built" in again.stderr) == (0, True)
    recipe(lab, "fails", post="exit 7")
    failed = lab.run(job_argv("fails"), user=USER, seconds=DEADLINE_S)
    assert (failed.returncode, b"step post failed" in failed.stderr) == (1, True)
    assert len(lab.sh(f"sacct -n -P -u {USER} -X --name=berth-build -o State").splitlines()) == jobs + 1
    refused = lab.run(job_argv("fails", "--no-such=1"), user=USER, seconds=DEADLINE_S)
    assert (refused.returncode, b"--no-such" in refused.stderr) == (2, True)


def test_interrupted_build_in_a_job_ends_with_its_job(lab: Lab, place: str) -> None:
    recipe(lab, "waits", post="sleep 600")
    with lab.popen(["sh", "-c", 'echo $$; exec "$@" 2>&1', "sh", *job_argv("waits")], user=USER) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        for line in process.stdout:
            if b"] post" in line:
                break
        assert lab.sh(f"squeue -h -u {USER} -n berth-build -o %T") == "RUNNING"
        lab.sh(f"kill -INT {pid}")
        process.stdout.read()
        assert process.wait(DEADLINE_S) != 0
    lab.sh(f'until [ -z "$(squeue -h -u {USER} -n berth-build)" ]; do sleep 0.2; done')
    assert not list((lab.shared / place.removeprefix("/shared/")).glob("store/waits/*/image.sif"))
