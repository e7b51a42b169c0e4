"""Images built on the login node by an ordinary user, from every kind of base, and what sessions find in them."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import images
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.images import Told
    from tests.lab_cluster import Lab

ROOM = "/shared/profile-tests"
STORE = f"{ROOM}/store"
APPTAINER = "/usr/bin/apptainer"

SMALL = "name: small\nversion: 1\nbase: debian:sid\nenvironment:\n  WHERE: small\n"

LAYERED = """
name: layered
version: 2.0~rc1
base: profile:small@1
apt: [hello, file]
pip: [idna]
files:
  - {destination: /opt/own/say hello, content: "#!/bin/sh\\nexec hello\\n", mode: 755}
  - {destination: /etc/motd, source: motd}
post: |
  test "$(id -u)" = 0
  install -o 42 -m 640 /dev/null /opt/own/kept
environment:
  PATH: /opt/own:$PATH
  WHERE: $WHERE, layered
"""


@pytest.fixture(scope="module")
def room(lab: Lab) -> str:
    """A folder of alice's for profiles and their images."""
    lab.sh(f"rm -rf {ROOM}; install -d -m 755 -o alice {ROOM} {STORE}")
    return ROOM


def write(lab: Lab, name: str, text: str) -> str:
    """Put a file into the room; its path in the lab."""
    lab.run(["sh", "-c", f"cat >{ROOM}/{name}"], user="alice", stdin=text.encode())
    return f"{ROOM}/{name}"


def built(lab: Lab, name: str, text: str, *, user: str = "alice") -> Told:
    return images.build(lab, write(lab, f"{name}.yaml", text), STORE, user)


@pytest.fixture(scope="module")
def small(lab: Lab, room: str) -> Told:
    """An image on Debian with nothing but what every session needs."""
    assert room == ROOM
    return built(lab, "small", SMALL)


@pytest.fixture(scope="module")
def layered(lab: Lab, small: Told) -> Told:
    """An image on another profile's, with some of everything."""
    assert small.image
    write(lab, "motd", "welcome\n")
    return built(lab, "layered", LAYERED)


@pytest.fixture(scope="module")
def imported(lab: Lab, layered: Told) -> Told:
    """An image on a SIF file."""
    return built(lab, "imported", f"name: imported\nversion: 1\nbase: sif:{layered.image}\nenvironment: {{MORE: x}}\n")


@pytest.fixture(scope="module")
def triton_image(lab: Lab) -> str:
    """The image of the shipped profile for Intel GPUs, from the site's store."""
    return images.published(lab, "triton-xpu")


def inside(lab: Lab, image: str, script: str, *, user: str = "alice", env: dict[str, str] | None = None) -> str:
    """What a script prints in a container of the image."""
    done = lab.run([APPTAINER, "-q", "exec", "--contain", image, "sh", "-euc", script], user=user, env=env)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def description(lab: Lab, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.sh(f"cat {image.removesuffix('image.sif')}image.json"))
    return found


def workspaces(lab: Lab) -> str:
    return lab.sh("ls -d /var/tmp/berth-build-* 2>/dev/null || :")


class TestSmall:
    """What the builder itself answers for."""

    def test_its_steps_are_told(self, small: Told) -> None:
        assert small.steps == ["check", "debian", "finish", "squashfs", "image"]
        assert any("running apt-get update" in line for line in small.lines)

    def test_digest_size_and_labels_are_true(self, lab: Lab, small: Told) -> None:
        said = description(lab, small.image)
        assert said["digest"] == "sha256:" + lab.sh(f"sha256sum {small.image}").split()[0]
        assert said["size"] == int(lab.sh(f"stat -c %s {small.image}"))
        shown = lab.sh(f"{APPTAINER} inspect {small.image}", user="bob")
        assert dict(re.findall(r"(berth\.[a-z]+): (.*)", shown)) == said["labels"]
        assert said["labels"]["berth.profile"] == "small"
        assert said["labels"]["berth.base"] == "debian:sid"

    def test_it_is_compressed_with_zstd(self, lab: Lab, small: Told) -> None:
        offset = re.search(r"\|(\d+)-\d+ *\|FS \(Squashfs", lab.sh(f"{APPTAINER} sif list {small.image}"))
        assert offset
        assert "Compression zstd" in lab.sh(f"unsquashfs -s -o {offset[1]} {small.image}")

    def test_recipe_packages_and_log_are_kept_and_anyone_may_read_all(self, lab: Lab, small: Told) -> None:
        folder = small.image.removesuffix("/image.sif")
        assert lab.sh(f"cat {folder}/profile.yaml", user="bob") == SMALL.rstrip("\n")
        assert re.search(r"^apt openssh-server \d", lab.sh(f"cat {folder}/packages.txt", user="bob"), re.MULTILINE)
        assert "mmdebstrap" in lab.sh(f"cat {folder}/build.log", user="bob")
        assert lab.sh(f"stat -c '%a %n' {folder} {folder}/* | cut -d' ' -f1 | sort -u").split() == ["644", "755"]

    def test_nothing_is_left_where_it_was_built(self, lab: Lab, small: Told) -> None:
        assert small.image
        assert workspaces(lab) == ""
        assert lab.sh(f"ls -A {STORE}/small") == "1"

    def test_nothing_in_it_is_the_machines_or_a_secret(self, lab: Lab, small: Told) -> None:
        left = (
            "/etc/ssh/ssh_host_* /etc/apt/apt.conf.d/99mmdebstrap /var/lib/apt/lists/* /run/berth-build /etc/hostname"
        )
        assert inside(lab, small.image, f"ls -d {left} 2>/dev/null || :") == ""
        assert inside(lab, small.image, "cat /etc/machine-id; find /tmp /var/tmp -type f") == ""

    def test_its_environment_is_the_containers(self, lab: Lab, small: Told) -> None:
        assert inside(lab, small.image, "echo $WHERE $LANG; locale charmap") == "small C.UTF-8\nUTF-8\n"
        assert "/usr/sbin" in inside(lab, small.image, "echo $PATH").strip().split(":")

    def test_login_shells_keep_the_sessions_path(self, lab: Lab, small: Told) -> None:
        path = {"APPTAINERENV_BERTH_PATH": "/opt/x:/usr/bin:/bin"}
        assert inside(lab, small.image, "bash -lc 'echo $PATH'", env=path) == "/opt/x:/usr/bin:/bin\n"
        assert "/usr/sbin" in inside(lab, small.image, "bash -lc 'echo $PATH'").strip().split(":")

    def test_sshd_runs_as_the_user_and_terminals_work(self, lab: Lab, small: Told) -> None:
        lab.sh(
            "rm -rf ~/sshd; mkdir -m 700 ~/sshd; cd ~/sshd\n"
            "ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key; cp key.pub authorized\n"
            "printf '%s\\n' \"HostKey $PWD/host\" \"AuthorizedKeysFile $PWD/authorized\" 'UsePAM no' 'StrictModes no' "
            "'PidFile none' 'Subsystem sftp internal-sftp' >config\n",
            user="alice",
        )
        ssh = (
            "cd ~/sshd; ssh -F none -tt -i key -o BatchMode=yes "
            "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
            f'-o ProxyCommand="{APPTAINER} -q exec --bind $PWD {small.image} /usr/sbin/sshd -i -e -f $PWD/config" '
            "alice@session 'tty; test -t 0; exit 7'"
        )
        done = lab.run(["sh", "-c", ssh], user="alice")
        assert (done.returncode, done.stdout.decode().strip()) == (7, "/dev/pts/0"), done.stderr.decode()


class TestLayered:
    """A profile on a profile, with packages, files and a script of its own."""

    def test_its_steps_are_told(self, layered: Told) -> None:
        assert layered.steps == ["check", "unpack", "packages", "files", "pip", "post", "finish", "squashfs", "image"]

    def test_packages_files_and_script_are_in(self, lab: Lab, layered: Told) -> None:
        assert inside(lab, layered.image, "hello; cat /etc/motd; '/opt/own/say hello'").splitlines() == [
            "Hello, world!", "welcome", "Hello, world!",
        ]  # fmt: skip
        assert inside(lab, layered.image, "which python pip; python -c 'import idna'").split() == [
            "/opt/venv/bin/python", "/opt/venv/bin/pip",
        ]  # fmt: skip
        packages = lab.sh(f"cat {layered.image.removesuffix('image.sif')}packages.txt")
        assert re.search(r"^pip idna==\d", packages, re.MULTILINE)
        assert re.search(r"^apt hello \d", packages, re.MULTILINE)

    def test_owners_other_than_the_builder_are_kept(self, lab: Lab, layered: Told) -> None:
        offset = re.search(r"\|(\d+)-\d+ *\|FS", lab.sh(f"{APPTAINER} sif list {layered.image}"))
        assert offset
        listed = lab.sh(f"unsquashfs -lln -o {offset[1]} {layered.image} opt/own/kept")
        assert re.search(r"^-rw-r----- 42/", listed, re.MULTILINE)

    def test_its_environment_builds_on_the_bases(self, lab: Lab, layered: Told) -> None:
        assert inside(lab, layered.image, "echo $WHERE") == "small, layered\n"
        assert inside(lab, layered.image, "echo $PATH").startswith("/opt/own:/opt/venv/bin:")

    def test_its_label_has_the_digest_of_the_base(self, lab: Lab, small: Told, layered: Told) -> None:
        labels = description(lab, layered.image)["labels"]
        assert labels["berth.base.digest"] == small.end["digest"]
        assert labels["berth.version"] == "2.0~rc1"


class TestImported:
    """A profile on a SIF file."""

    def test_all_of_the_sif_is_there_and_what_was_added(self, lab: Lab, layered: Told, imported: Told) -> None:
        assert inside(lab, imported.image, "hello; echo $WHERE $MORE") == "Hello, world!\nsmall, layered x\n"
        assert description(lab, imported.image)["labels"]["berth.base.digest"] == layered.end["digest"]

    def test_nothing_was_fetched_for_what_is_there(self, imported: Told) -> None:
        assert not any("Get:" in line or "Hit:" in line for line in imported.lines)


class TestTritonXpu:
    """The shipped profile for work on Intel GPUs."""

    def test_clinfo_finds_a_device_without_a_gpu(self, lab: Lab, triton_image: str) -> None:
        assert "Portable Computing Language" in inside(lab, triton_image, "clinfo -l")
        assert int(inside(lab, triton_image, "clinfo --raw | grep -c CL_DEVICE_NAME")) >= 1

    def test_the_tools_are_there(self, lab: Lab, triton_image: str) -> None:
        tools = "gcc g++ clang cmake ninja ccache git gdb python3 clinfo llvm-spirv"
        assert len(inside(lab, triton_image, f"which {tools}").split()) == len(tools.split())

    def test_a_level_zero_program_builds_and_finds_the_loader(self, lab: Lab, triton_image: str) -> None:
        program = "#include <level_zero/ze_api.h>\nint main(void) { return zeInit(0) == ZE_RESULT_SUCCESS; }"
        script = f"cd /tmp; echo '{program}' >a.c; gcc a.c -o a -lze_loader; ldd a; ls /usr/lib/*/libze_intel_gpu.so.1"
        shown = inside(lab, triton_image, script)
        assert "libze_loader.so.1 => /" in shown
        assert "libze_intel_gpu.so.1" in shown

    def test_a_virtual_environment_can_be_made(self, lab: Lab, triton_image: str) -> None:
        assert inside(lab, triton_image, "python3 -m venv /tmp/v; /tmp/v/bin/pip --version").startswith("pip ")


class TestStore:
    """A version is published whole, once, or not at all."""

    def test_a_version_is_never_overwritten(self, lab: Lab, small: Told) -> None:
        again = built(lab, "small", SMALL)
        assert again.end["error"] == "ImageExistsError"
        assert again.steps == []
        assert "sha256:" + lab.sh(f"sha256sum {small.image}").split()[0] == small.end["digest"]

    def test_of_two_builders_of_a_version_one_wins(self, lab: Lab, small: Told) -> None:
        recipe = write(lab, "raced.yaml", f"name: raced\nversion: 1\nbase: sif:{small.image}\n")
        argv = images.build_argv(lab, recipe, STORE, "alice")
        racers = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        ends = [images.told(racer.communicate(timeout=images.SECONDS)[0].decode()).end for racer in racers]
        won, lost = sorted(ends, key=lambda end: "error" in end)
        assert lost["error"] == "ImageExistsError"
        assert "raced@1 is published" in lost["message"]
        assert "sha256:" + lab.sh(f"sha256sum {won['path']}").split()[0] == won["digest"]
        assert lab.sh(f"ls -A {STORE}/raced") == "1"

    @pytest.mark.parametrize(
        ("text", "step", "said"),
        [
            ("apt: [no-such-package]\n", "packages", "no-such-package"),
            ("pip: [no-such-package-at-all]\n", "pip", "no-such-package-at-all"),
            ("post: |\n  echo so far\n  false | cat\n  touch /never\n", "post", "so far"),
        ],
    )
    def test_a_failed_step_is_named_with_its_log_and_remedy(
        self, lab: Lab, layered: Told, text: str, step: str, said: str
    ) -> None:
        failed = built(lab, "failing", f"name: failing\nversion: 1\nbase: sif:{layered.image}\n{text}")
        assert failed.end["error"] == "BuildError"
        assert failed.end["message"].startswith(f"step {step} failed")
        assert said in failed.end["message"]
        assert failed.end["hint"]
        assert failed.end["log"] == f"{STORE}/failing/1.failed.log"
        assert said in lab.sh(f"cat {failed.end['log']}")
        assert lab.sh(f"ls -A {STORE}/failing") == "1.failed.log"
        assert workspaces(lab) == ""

    def test_without_subordinate_ids_the_remedy_is_told(self, lab: Lab, small: Told) -> None:
        lab.sh(f"install -d -m 1777 {ROOM}/nobodys")
        recipe = write(lab, "no-ids.yaml", f"name: no-ids\nversion: 1\nbase: sif:{small.image}\n")
        failed = images.build(lab, recipe, f"{ROOM}/nobodys", "berth").end
        assert "user namespaces do not work here" in failed["message"]
        assert "/etc/subuid" in failed["hint"]

    def test_root_can_build_too(self, lab: Lab, small: Told) -> None:
        made = built(lab, "roots", f"name: roots\nversion: 1\nbase: sif:{small.image}\npost: test -d /\n", user="root")
        assert inside(lab, made.image, "echo $WHERE") == "small\n"
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
        process.communicate(timeout=30)


def sleepers(lab: Lab) -> str:
    return lab.sh("pgrep -u alice -x -f 'sleep 86399' || :")


def builder_pid(lab: Lab) -> str:
    return lab.sh("pgrep -u alice -f '^/opt/berth/venv/bin/python -B -c'")


class TestEndings:
    """A build that is ended from outside leaves no process, no trace in the store, and no folder for good."""

    def test_an_interrupted_build_cleans_up(self, lab: Lab, small: Told) -> None:
        with building(lab, small.image) as process:
            lab.sh(f"kill -{signal.SIGTERM} {builder_pid(lab)}")
            out, _ = process.communicate(timeout=60)
        assert images.told(out.decode()).end == {"error": "KeyboardInterrupt"}
        assert (sleepers(lab), workspaces(lab), lab.sh(f"ls -A {STORE}/endless")) == ("", "", "")

    def test_a_killed_build_takes_its_processes_along_and_is_swept(self, lab: Lab, small: Told) -> None:
        with building(lab, small.image) as process:
            lab.sh(f"kill -{signal.SIGKILL} {builder_pid(lab)}")
            process.communicate(timeout=60)
        wait_for(lambda: sleepers(lab) == "", what="the end of the build's processes")
        assert lab.sh(f"ls {STORE}/endless") == "", "nothing is visible"
        assert workspaces(lab) != ""
        built(lab, "after", f"name: after\nversion: 1\nbase: sif:{small.image}\n")
        assert workspaces(lab) == ""
