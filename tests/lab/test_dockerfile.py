"""From a Dockerfile to a session: built by an ordinary user on the login node, and compared with what root builds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.buildah_machine import write_base
from tests.deadlines import DEADLINE_S
from tests.lab.images import CASE, ROOM, listed, pack_system, write
from tests.lab.ways import laptop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

CONTEXT = f"{ROOM}/context"
DISK = f"{ROOM}/disk"
"""On a disk that overlayfs can use: the nodes' own are overlays already."""
VS_CODE = Path(__file__).parent / "ides/vscode.sh"
SECONDS = 300.0
DOCKERFILE = """
ARG BASE=system
FROM scratch AS small
ADD base.tar /
FROM scratch AS system
ADD system.tar /
FROM small AS built
ARG FLAVOUR=plain
RUN mkdir -p /out/sub /out/secret && echo "built $FLAVOUR" >/out/tool && echo x >/out/secret/inner && \\
  chmod 0 /out/secret/inner && chmod 0 /out/secret && ln /out/tool /out/sub/hard && ln -s ../tool /out/sub/link && \\
  chown 9:5 /out/sub && chmod 3775 /out/sub
FROM ${BASE}
ENV FROM_DOCKERFILE="it's \\$5" PATH=/case/bin:$PATH
RUN mkdir -p /case/bin /case/opaque /case/folder && touch /case/opaque/old /case/deleted /case/folder/x
COPY --from=built --chown=42:60000 /out /case/out
COPY --chown=7:8 --chmod=4755 app.sh /case/bin/app
RUN rm -r /case/opaque /case/deleted /case/folder && mkdir -m 700 /case/opaque && touch /case/opaque/new && \\
  ln /case/bin/app /case/hard && chown 60001:60002 /case/opaque/new && mkfifo -m 600 /case/pipe
USER 42:60000
WORKDIR /case/work
RUN test "$(id -u):$(id -g)" = 42:60000 && touch /case/out/by-user
ENTRYPOINT ["/case/bin/app"]
EXPOSE 8080
"""
RECIPE = f"""
name: NAME
version: 1
base: dockerfile:{CONTEXT}
build_args:
  FLAVOUR: sweet
"""
AS_ROOT = f"""
cd {CONTEXT}
export STORAGE_DRIVER=overlay TMPDIR={ROOM}
buildah="buildah --root {ROOM}/graph --runroot {ROOM}/run"
trap '$buildah rm --all >&2; rm -rf {ROOM}/graph {ROOM}/run' EXIT
limits="--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
$buildah bud --isolation chroot $limits -q --build-arg BASE=small --build-arg FLAVOUR=sweet -t case . >&2
mounted=$($buildah mount "$($buildah from case)")
PYTHONPATH=/opt/berth/src /opt/berth/venv/bin/python -B -c '
import json, sys
from pathlib import Path
from tests.unpacked_images import listing
print(json.dumps({{name: values[:4] for name, values in listing(Path(sys.argv[1])).items()}}))
' "$mounted/{CASE}"
"""
"""Builds the same Dockerfile with buildah as root, on a small system, and prints the content of the image."""


@pytest.fixture(scope="module")
def context(lab: Lab, image: str, room: str) -> Iterator[str]:
    """The folder with the Dockerfile, alice's."""
    assert image
    pack_system(lab, f"{room}/system.tar")
    folder = lab.shared / CONTEXT.removeprefix("/shared/")
    lab.sh(f"install -d -o alice {CONTEXT} {DISK}; mv {ROOM}/system.tar {CONTEXT}")
    write_base(folder)
    write(lab, "context/Dockerfile", DOCKERFILE)
    write(lab, "context/app.sh", "#!/bin/sh\necho app\n")
    yield CONTEXT
    lab.sh(f"rm -rf {CONTEXT} {DISK}")


def test_session_starts_from_a_dockerfile(
    alice: User, context: str, new_name: Callable[[str], str], tmp_path: Path
) -> None:
    assert context
    lab, name = alice.site.lab, new_name("dockerfile")
    lab.sh(f"rm -rf /shared/berth/alice/profiles/{name}")
    recipe = write(lab, "dockerfile.yaml", RECIPE.replace("NAME", name))
    expected = json.loads(lab.sh(AS_ROOT, seconds=SECONDS))
    built = build(lab, recipe)
    assert [step["name"] for step in built["steps"]][:4] == ["check", "dockerfile", "fetch", "unpack"]
    assert listed(lab, built) == expected
    assert (expected["out/tool"][1:3], expected["opaque/new"][1:3]) == ([42, 60000], [60001, 60002])
    outcomes = {item["key"]: item["outcome"] for item in built["import"]["items"]}
    assert outcomes["Env FROM_DOCKERFILE"] == "taken"
    assert {key for key, outcome in outcomes.items() if outcome == "ignored"} >= {
        "User", "WorkingDir", "Entrypoint", "ExposedPorts",
    }  # fmt: skip
    assert build(lab, recipe)["built"] is False

    alice.ok("start", name, "--profile", name, "--mem=1G", seconds=DEADLINE_S)
    said = alice.laptop.ok(name, 'printf "%s|" "$FROM_DOCKERFILE"; app; cat /case/out/tool').decode()
    assert said == "it's $5|app\nbuilt sweet\n"
    sftp = ["sftp", "-F", str(alice.laptop.config), "-o", "BatchMode=yes", "-b", "-", f"{name}.berth"]
    done = subprocess.run(sftp, input=b"ls /case/out\n", capture_output=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, b"/case/out/by-user" in done.stdout) == (0, True), done.stderr
    served = laptop(alice, name, tmp_path).run(VS_CODE.read_text())
    assert served.splitlines() == ["started", "from the server", "found", "from the server"]
    alice.ok("stop", name)
    alice.ok("profile", "delete", f"{name}@1", "--yes")


def build(lab: Lab, recipe: str) -> dict[str, Any]:
    """Build a profile as alice with the machine's network; the answer of the command."""
    done = lab.run(
        ["berth", "profile", "build", recipe, "--json"],
        user="alice",
        env={"TMPDIR": DISK},
        host_network=True,
        seconds=SECONDS,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found
