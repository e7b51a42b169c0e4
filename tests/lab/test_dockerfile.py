"""From a Dockerfile to a session: built by an ordinary user on the login node, and compared with what root builds.

The second test has the shape of repositories for GPUs, and finds the layer with the system in the cache of the first.
"""

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


REPOSITORY = f"{ROOM}/kernels"
GPU_DOCKERFILE = """
FROM scratch AS system
ADD system.tar /
FROM system AS dev
ARG CUDA_VERSION=12.0
ARG USERNAME=vscode
ENV CUDA_HOME=/usr/local/cuda-${CUDA_VERSION}
ENV PATH=${CUDA_HOME}/bin:${PATH}
RUN mkdir -p ${CUDA_HOME}/bin /home/${USERNAME} && echo "release ${CUDA_VERSION}" >${CUDA_HOME}/version
RUN printf '#!/bin/sh\\ncat $CUDA_HOME/version\\n' >${CUDA_HOME}/bin/nvcc && chmod 755 ${CUDA_HOME}/bin/nvcc
LABEL devcontainer.metadata='[{"remoteUser": "vscode", "remoteEnv": {"FROM_LABEL": "label"}, \\
  "containerEnv": {"NVIDIA_VISIBLE_DEVICES": "all"}, "onCreateCommand": "echo label >>$HOME/order"}]'
USER ${USERNAME}
WORKDIR /workspaces
CMD ["sleep", "infinity"]
"""
GPU_CONFIG = """// The shape of repositories of PyTorch, Triton and CUDA projects.
{
  "name": "Kernels",
  "build": {
    "dockerfile": "Dockerfile",
    "target": "dev",
    "args": {"CUDA_VERSION": "13.0", "USERNAME": "${localEnv:NO_SUCH_VARIABLE:vscode}"},
    "options": ["--network=host"],
  },
  "features": {"./python-tools": {"version": "3.13", "lint": true}},
  "hostRequirements": {"cpus": 1, "memory": "600mb", "gpu": true},
  "runArgs": ["--gpus=all", "--ipc=host", "--cap-add=SYS_PTRACE", "--security-opt=seccomp=unconfined"],
  "containerEnv": {"TORCH_CUDA_ARCH_LIST": "9.0", "TRITON_CACHE_DIR": "/home/vscode/.triton"},
  "remoteUser": "vscode",
  "updateRemoteUserUID": true,
  "mounts": ["source=ccache,target=/home/vscode/.ccache,type=volume"],
  "postCreateCommand": "nvcc >>$HOME/order && lint >>$HOME/order",
  "forwardPorts": [8888],
  "portsAttributes": {"8888": {"label": "Jupyter", "onAutoForward": "silent"}},
  "customizations": {"vscode": {
    "extensions": ["ms-python.python", "ms-vscode.cpptools"],
    "settings": {"python.defaultInterpreterPath": "/usr/bin/python3"},
  }},
}
"""
FEATURE = {
    "id": "python-tools",
    "version": "2.1.0",
    "options": {"version": {"type": "string", "default": "3"}, "lint": {"type": "boolean", "default": False}},
}
INSTALL = """#!/bin/sh
set -e
[ "$LINT" = true ]
printf '#!/bin/sh\necho "lint for %s as %s"\n' "$VERSION" "$_REMOTE_USER" >/usr/local/bin/lint
chmod 755 /usr/local/bin/lint
"""


def test_repository_of_a_gpu_project_comes_up_and_the_second_time_nothing_is_built(alice: User, context: str) -> None:
    lab, name, folder = alice.site.lab, "kernels", "kernels/.devcontainer"
    lab.sh(f"rm -rf /shared/berth/alice/profiles/{name}")
    lab.sh(f"mkdir -p {ROOM}/{folder}/python-tools", user="alice")
    lab.sh(f"ln {context}/system.tar {ROOM}/{folder}")
    for file, text in {
        "Dockerfile": GPU_DOCKERFILE,
        "devcontainer.json": GPU_CONFIG,
        "python-tools/devcontainer-feature.json": json.dumps(FEATURE),
        "python-tools/install.sh": INSTALL,
    }.items():
        write(lab, f"{folder}/{file}", text)

    def up() -> dict[str, Any]:
        command = ["berth", "up", REPOSITORY, "--json", "--time=30"]
        done = lab.run(command, user="alice", env={"TMPDIR": DISK}, seconds=SECONDS)
        assert done.returncode == 0, done.stderr.decode()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    try:
        first = up()
        assert (first["built"], first["session"]["state"], first["services"]) == (True, "ready", ["port-8888"])
        assert first["hooks"] == ["onCreateCommand of the image", "postCreateCommand"]
        assert "gres/gpu=1" in lab.sh(f"scontrol show job {first['session']['job_id']}")
        report = {each["key"]: each["verdict"] for each in first["report"]}
        assert report["devcontainer.metadata"] == report["hostRequirements.gpu"] == report["build"] == "taken"
        assert report["runArgs"] == report["remoteUser"] == report["build.options"] == "ignored"
        shown = 'cat ~/order ~/.config/berth/vscode-extensions; echo "$FROM_LABEL $NVIDIA_VISIBLE_DEVICES $CUDA_HOME"'
        assert alice.ok("exec", name, "--", "bash", "-lc", shown).splitlines() == [
            "label", "release 13.0", "lint for 3.13 as root", "ms-python.python", "ms-vscode.cpptools",
            "label all /usr/local/cuda-13.0",
        ]  # fmt: skip
        features = json.loads(alice.ok("profile", "sbom", f"own/{name}", "--json"))["packages"]
        assert [each["name"] for each in features if each["kind"] == "feature"] == ["./python-tools"]

        second = up()
        assert (second["built"], second["hooks"]) == (False, [])
        assert second["session"]["job_id"] == first["session"]["job_id"]
    finally:
        if alice.knows(name):
            alice.remove(name)
        lab.sh(f"rm -rf /shared/berth/alice/profiles/{name}")


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
