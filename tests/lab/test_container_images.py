"""From an archive of a container image to a session: built by an ordinary user on the login node, without root."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.deadlines import DEADLINE_S
from tests.lab.images import CASE, ROOM, listed, pack_system, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

MANAGERS = [("usr/bin", "apt-get"), ("usr/bin", "dpkg"), ("usr/bin", "dpkg-query"), ("var/lib", "dpkg")]
"""The parts of a package manager that an image with an sshd of its own lacks."""
MAKE = f"""
import sys, tarfile
from pathlib import Path
from tests.container_images import Member, layer, layout_files, make_image, write_archive
from tests.unpacked_images import listing, reference, tricky_layers
import json
room = Path({ROOM!r})
layers = [(room / "system.tar").read_bytes(), *tricky_layers({CASE!r})]
settings = {{
    "Env": ["PATH=/opt/app/bin:/usr/bin:/bin", "FROM_IMAGE=it's $5", "HOME=/app", "BROKEN"], "User": "app:app",
    "WorkingDir": "/app", "Entrypoint": ["/bin/app"], "ExposedPorts": {{"8080/tcp": {{}}}}, "Labels": {{"a": "b"}},
}}
write_archive(layout_files(make_image(layers, settings, compression="zstd")), room / "image.tar")
managers = layer(*(Member(f"{{folder}}/.wh.{{name}}") for folder, name in {MANAGERS!r}))
write_archive(layout_files(make_image([layers[0], managers], compression="zstd")), room / "own-sshd.tar")
listed = listing(reference(tricky_layers(), Path("/var/tmp/reference")))
print(json.dumps({{name: values[:4] for name, values in listed.items()}}))
"""
"""Writes an archive with the system of the profile `base` and layers that are hard to unpack; prints what root makes
of those. Another archive has the same system without a package manager."""
RECIPE = """
name: {name}
version: {version}
base: oci-archive:image.tar
environment:
  FROM_RECIPE: $FROM_IMAGE, and more
"""


@pytest.fixture(scope="module")
def expected(lab: Lab, room: str) -> dict[str, Any]:
    """Make the archive; return what root makes of its difficult part, by path."""
    pack_system(lab, f"{room}/system.tar")
    lab.sh("rm -rf /var/tmp/reference*")
    program = ["/opt/berth/venv/bin/python", "-B", "-c", MAKE]
    done = lab.run(program, seconds=DEADLINE_S)
    assert done.returncode == 0, done.stderr.decode()
    lab.sh("rm -r /var/tmp/reference*")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_session_starts_from_a_container_image(
    alice: User, expected: dict[str, Any], new_name: Callable[[str], str]
) -> None:
    lab, name = alice.site.lab, new_name("oci")
    version = lab.sh("date +%s")
    text = RECIPE.format(name=name, version=version)
    recipe = write(lab, "oci.yaml", text)
    image = json.loads(alice.ok("profile", "build", recipe, "--json", seconds=DEADLINE_S))
    assert image["built"]
    assert [step["name"] for step in image["steps"]] == [
        "check", "fetch", "unpack", "packages", "finish", "inventory", "squashfs", "image",
    ]  # fmt: skip
    assert listed(lab, image) == expected
    outcomes = {item["key"]: item["outcome"] for item in image["import"]["items"]}
    assert outcomes["Env FROM_IMAGE"] == "taken"
    assert {key for key, outcome in outcomes.items() if outcome == "ignored"} == {
        "Env HOME", "Env BROKEN", "User", "WorkingDir", "Entrypoint", "ExposedPorts", "Label a",
    }  # fmt: skip
    assert image["labels"]["berth.base.digest"] == image["import"]["digest"]

    again = json.loads(alice.ok("profile", "build", recipe, "--json"))
    assert (again["built"], again["digest"], again["steps"]) == (False, image["digest"], [])
    write(lab, "oci.yaml", f"{text}  MORE: x\n")
    refused = alice.berth("profile", "build", recipe)
    assert (refused.returncode, b"raise the profile's version" in refused.stderr) == (5, True)

    alice.ok("start", name, "--profile", name, "--timeout", "60", seconds=90)
    script = 'printf "%s|" "$FROM_IMAGE" "$FROM_RECIPE" "$PATH"; cat /case/etc/wall'
    said = alice.laptop.ok(name, script).decode()
    assert said.startswith("it's $5|it's $5, and more|/opt/app/bin:")
    assert said.endswith("wall")
    sftp = ["sftp", "-F", str(alice.laptop.config), "-o", "BatchMode=yes", "-b", "-", f"{name}.berth"]
    done = subprocess.run(sftp, input=b"ls /case/etc/hard\n", capture_output=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, b"/case/etc/hard" in done.stdout) == (0, True), done.stderr
    assert "FROM_IMAGE" in alice.ok("profile", "show", name)
    alice.ok("stop", name)
    alice.ok("profile", "delete", f"{name}@{version}", "--yes")


@pytest.mark.soak
def test_session_starts_from_an_image_with_an_sshd_of_its_own(
    alice: User, expected: dict[str, Any], new_name: Callable[[str], str]
) -> None:
    assert expected
    name = new_name("own-sshd")
    text = RECIPE.format(name=name, version="1").replace("image.tar", "own-sshd.tar").replace("$FROM_IMAGE", "$$x")
    recipe = write(alice.site.lab, "own-sshd.yaml", text)
    image = json.loads(alice.ok("profile", "build", recipe, "--json", seconds=DEADLINE_S))
    try:
        assert image["packages"] == {}
        alice.ok("start", name, "--profile", name, "--timeout", "60", seconds=90)
        assert alice.laptop.ok(name, 'echo "$FROM_RECIPE"; command -v dpkg || echo none').decode() == (
            "$x, and more\nnone\n"
        )
        alice.ok("stop", name)
    finally:
        alice.ok("profile", "delete", f"{name}@1", "--yes")
