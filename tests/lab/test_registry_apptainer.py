"""Images in a registry that Apptainer pulls and pushes, and a container image made by an ordinary user."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.images import APPTAINER, ROOM
from tests.registry_server import running_registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.lab_cluster import Lab

DIRECTLY = {"no_proxy": "localhost", "NO_PROXY": "localhost"}
SECONDS = 300.0


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry of the machine, which alice reaches on the login node with the machine's network."""
    with running_registry(tmp_path_factory.mktemp("registry")) as port:
        yield f"localhost:{port}"


def as_alice(lab: Lab, *command: str) -> str:
    done = lab.run(command, user="alice", host_network=True, env=DIRECTLY, seconds=SECONDS)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def berth(lab: Lab, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(as_alice(lab, "berth", *words, "--json"))
    return found


def test_apptainer_pulls_what_berth_pushes_and_the_other_way_round(
    lab: Lab, image: str, room: str, registry: str
) -> None:
    pushed = berth(lab, "profile", "push", image, f"{registry}/team/base")
    version = pushed["version"]
    file = f"{room}/pulled.sif"
    as_alice(
        lab, APPTAINER, "-q", "pull", "--no-https", "--disable-cache", file, f"oras://{registry}/team/base:{version}"
    )
    assert f"sha256:{as_alice(lab, 'sha256sum', file).split()[0]}" == pushed["image_digest"]

    as_alice(lab, APPTAINER, "-q", "push", "--no-https", file, f"oras://{registry}/back/base:{version}")
    got = berth(lab, "profile", "pull", f"{registry}/back/base:{version}", "--store", f"{room}/store")
    assert (got["name"], got["version"], got["digest"], got["new"]) == (image, version, pushed["image_digest"], True)
    assert got["labels"]["berth.profile"] == image
    again = berth(lab, "profile", "pull", f"{registry}/team/base:{version}", "--store", f"{room}/other")
    assert again["profile"] != got["profile"]  # the recipe came with it
    assert again["digest"] == got["digest"]


def test_user_exports_an_image_with_the_owners_and_modes_that_it_has(lab: Lab, image: str, room: str) -> None:
    exported = berth(lab, "profile", "export", image, f"oci-archive:{room}/base.tar")
    shown = berth(lab, "profile", "show", image)
    listed = lab.sh(f"unsquashfs -lln -offset {shown['offset']} {shown['path']}").splitlines()
    expected = dict(each for line in listed if (each := listed_entry(line.split(maxsplit=5))))
    content = lab.run(["cat", f"{ROOM}/base.tar"]).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        manifest = json.load(blob(archive, exported["digest"]))
        with tarfile.open(fileobj=blob(archive, manifest["layers"][0]["digest"]), mode="r|gz") as layer:
            for entry in layer:
                if not entry.islnk():  # a second name of a file that is there already
                    found[entry.name.removeprefix(".")] = (entry.mode & 0o7777, entry.uid, entry.gid)
    assert {path: found[path] for path in expected if path in found} == {
        path: owner for path, owner in expected.items() if path in found
    }
    assert len(found) > 1000
    assert any(uid != 0 for _, uid, _ in found.values())


def blob(archive: tarfile.TarFile, digest: str) -> Any:  # noqa: ANN401 - a file of one of several classes
    return archive.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")


BITS = {"r": 4, "w": 2, "x": 1, "s": 1, "t": 1}


def listed_entry(words: Sequence[str]) -> tuple[str, tuple[int, int, int]] | None:
    """Return path, mode and owners of a line of `unsquashfs -lln`; None for a link, whose mode means nothing."""
    if len(words) < 6 or len(words[0]) != 10 or words[0][0] == "l":
        return None
    mode = sum(
        BITS.get(char, 0) << (6 - 3 * (index // 3)) | (char in "sStT") << (11 - index // 3)
        for index, char in enumerate(words[0][1:])
    )
    uid, gid = words[1].split("/")
    return words[5].removeprefix("squashfs-root"), (mode, int(uid), int(gid))
