"""Images built on the login node by an ordinary user, from every kind of base, and what is in them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.images import APPTAINER, ROOM, STORE, built, inside, workspaces, write

if TYPE_CHECKING:
    from tests.lab.images import Told
    from tests.lab_cluster import Lab

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


def description(lab: Lab, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.sh(f"cat {image.removesuffix('image.sif')}image.json"))
    return found


class TestSmall:
    """The builder's own part of an image."""

    def test_its_steps_are_told(self, small: Told) -> None:
        assert small.steps == ["check", "debian", "finish", "inventory", "squashfs", "image"]
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

    def test_where_its_squashfs_begins_is_what_apptainer_says(self, lab: Lab, small: Told) -> None:
        found = re.search(r"\|(\d+)-\d+ *\|FS \(Squashfs", lab.sh(f"{APPTAINER} sif list {small.image}"))
        assert found
        assert description(lab, small.image)["offset"] == int(found[1])

    def test_recipe_packages_and_log_are_kept_and_anyone_may_read_all(self, lab: Lab, small: Told) -> None:
        folder = small.image.removesuffix("/image.sif")
        assert lab.sh(f"cat {folder}/profile.yaml", user="bob") == SMALL.rstrip("\n")
        assert re.search(r"^apt openssh-server \d", lab.sh(f"cat {folder}/packages.txt", user="bob"), re.MULTILINE)
        assert "mmdebstrap" in lab.sh(f"cat {folder}/build.log", user="bob")
        assert lab.sh(f"stat -c '%a %n' {folder} {folder}/* | cut -d' ' -f1 | sort -u").split() == ["644", "755"]

    def test_a_version_is_never_overwritten(self, lab: Lab, small: Told) -> None:
        again = built(lab, "small", SMALL)
        assert (again.end["built"], again.end["digest"], again.steps) == (False, small.end["digest"], [])
        again = built(lab, "small", f"{SMALL}  MORE: x\n")
        assert again.end["error"] == "ImageExistsError"
        assert again.steps == []
        assert "sha256:" + lab.sh(f"sha256sum {small.image}").split()[0] == small.end["digest"]

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
        content = ["unpack", "packages", "files", "pip", "post"]
        assert layered.steps == ["check", *content, "finish", "inventory", "squashfs", "image"]

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

    def test_its_inventory_is_in_it_and_beside_it(self, lab: Lab, small: Told, layered: Told) -> None:
        """In place of that of its base."""
        text = lab.sh(f"cat {layered.image.removesuffix('image.sif')}sbom.cdx.json", user="bob")
        assert inside(lab, layered.image, "cat /usr/share/berth/sbom.cdx.json").strip() == text.strip()
        document = json.loads(text)
        found = {each["purl"].partition("@")[0] for each in document["components"] if "purl" in each}
        assert {"pkg:deb/debian/hello", "pkg:deb/debian/openssh-server", "pkg:pypi/idna"} <= found
        [ancestor] = document["metadata"]["component"]["pedigree"]["ancestors"]
        assert ancestor["name"] == "profile:small@1"
        assert f"sha256:{ancestor['hashes'][0]['content']}" == small.end["digest"]
        counts = description(lab, layered.image)["packages"]
        assert sum(counts.values()) == sum("purl" in each for each in document["components"])
        loose = [each["name"] for each in document["components"] if each["type"] == "file"]
        assert "/opt/own/say hello" in loose

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
