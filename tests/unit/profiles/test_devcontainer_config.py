"""devcontainer.json: where it is found, what is taken from it, and what is refused or named as ignored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from profiles.devcontainer.config import DevConfig, find_dev_config, read_dev_config, workspace_of
from profiles.devcontainer.ignored import IGNORED
from profiles.devcontainer.session_part import SessionPart, session_part
from profiles.devcontainer.variables import Surroundings, shell_text
from profiles.errors import NoSuchFileError, ProfileError

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = "registry.example.org/team/base:1"


def written(folder: Path, data: object, name: str = ".devcontainer/devcontainer.json") -> Path:
    file = folder / "solver" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return file


def config_of(folder: Path, **data: object) -> DevConfig:
    return read_dev_config(written(folder, {"image": IMAGE, **data}), {"HOME": "/home/alice", "EMPTY": ""})


def part_of(folder: Path, allowed: bool = True, **data: object) -> SessionPart:
    return session_part(config_of(folder, **data), [], lambda _: allowed)


class TestPlace:
    def test_file_of_a_repository_is_found(self, tmp_path: Path) -> None:
        late = written(tmp_path, {}, ".devcontainer.json")
        assert find_dev_config(tmp_path / "solver") == late
        first = written(tmp_path, {})
        assert find_dev_config(tmp_path / "solver") == first
        assert find_dev_config(late) == late
        assert workspace_of(first) == workspace_of(late) == tmp_path / "solver"

    def test_one_of_several_has_to_be_chosen(self, tmp_path: Path) -> None:
        written(tmp_path, {}, ".devcontainer/cpu/devcontainer.json")
        only = written(tmp_path, {}, ".devcontainer/gpu/devcontainer.json")
        with pytest.raises(NoSuchFileError) as caught:
            find_dev_config(tmp_path / "solver")
        assert "--config: cpu, gpu" in caught.value.hint
        assert find_dev_config(tmp_path / "solver", "gpu") == only
        assert workspace_of(only) == tmp_path / "solver"
        with pytest.raises(NoSuchFileError, match="has no xpu"):
            find_dev_config(tmp_path / "solver", "xpu")

    def test_repository_without_one_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(NoSuchFileError, match=r"has no devcontainer\.json"):
            find_dev_config(tmp_path)


class TestVariables:
    def test_variables_of_the_machine_and_of_the_repository_are_replaced(self, tmp_path: Path) -> None:
        config = config_of(
            tmp_path,
            workspaceFolder="/work/solver",
            containerEnv={
                "A": "${localEnv:HOME}/x",
                "B": "${localEnv:MISSING}|${localEnv:EMPTY:instead}",
                "C": "${localWorkspaceFolder} ${localWorkspaceFolderBasename}",
                "D": "${containerWorkspaceFolder} ${containerWorkspaceFolderBasename}",
                "E": "${unknown} $HOME ${containerEnv:PATH}",
            },
        )
        assert config.dev.container_env == {
            "A": "/home/alice/x",
            "B": "|instead",
            "C": f"{tmp_path}/solver solver",
            "D": "/work/solver solver",
            "E": "${unknown} $HOME ${containerEnv:PATH}",
        }

    def test_container_id_is_the_one_of_the_specification(self) -> None:
        around = Surroundings("/w", "/i", "/w/.devcontainer/devcontainer.json", {})
        assert len(around.container_id) == 52
        assert around.container_id.isalnum()
        assert around.container_id == Surroundings("/w", "/other", around.config, {"A": "b"}).container_id
        assert around.container_id != Surroundings("/v", "/i", around.config, {}).container_id

    def test_texts_that_grow_without_bound_are_refused(self, tmp_path: Path) -> None:
        file = written(tmp_path, {"image": IMAGE, "containerEnv": {"A": "${localEnv:BIG}" * 4000}})
        with pytest.raises(ProfileError, match="longer than"):
            read_dev_config(file, {"BIG": "x" * 10_000})

    @pytest.mark.parametrize(
        ("text", "quoted"),
        [
            ("plain", "plain"),
            ("a b", "'a b'"),
            ("${containerEnv:PATH}:/opt/bin", "${PATH-}:/opt/bin"),
            ("x'$(id)'${containerEnv:A:b c}", "'x'\"'\"'$(id)'\"'\"''${A:-'b c'}"),
            ("", ""),
        ],
    )
    def test_only_variables_of_the_session_are_left_to_the_shell(self, text: str, quoted: str) -> None:
        assert shell_text(text) == quoted


class TestSession:
    def test_host_requirements_are_options_of_sbatch(self, tmp_path: Path) -> None:
        part = part_of(tmp_path, hostRequirements={"cpus": 4, "memory": "8gb", "storage": "1500kb", "gpu": True})
        assert part.options == {"cpus-per-task": "4", "mem": "8192M", "tmp": "2M", "gres": "gpu:1"}
        assert not part.wants_gpu

    @pytest.mark.parametrize("gpu", ["optional", False, {"cores": 1000, "memory": "8gb"}])
    def test_gpu_is_required_welcome_or_not_needed(self, tmp_path: Path, gpu: object) -> None:
        part = part_of(tmp_path, hostRequirements={"gpu": gpu})
        assert part.wants_gpu is (gpu == "optional")
        assert part.options == ({"gres": "gpu:1"} if isinstance(gpu, dict) else {})
        assert any(finding.verdict == "ignored" for finding in part.findings) is isinstance(gpu, dict)

    def test_own_resources_override(self, tmp_path: Path) -> None:
        own = {"berth": {"resources": {"mem": "1G", "gpus": 2, "exclusive": True}}}
        part = part_of(tmp_path, hostRequirements={"memory": "8gb", "gpu": True}, customizations=own)
        assert part.options == {"mem": "1G", "gpus": "2", "exclusive": "true"}

    def test_volumes_are_directories_and_binds_are_the_sites_choice(self, tmp_path: Path) -> None:
        mounts = [
            "source=cache-${devcontainerId},target=/root/.cache/,type=volume",
            {"type": "bind", "source": "/shared/data", "target": "/data", "readonly": True},
            "type=tmpfs,target=/scratch",
        ]
        part = part_of(tmp_path, mounts=mounts)
        assert part.folders == ["/root/.cache"]
        assert [(each.source, each.target, each.readonly) for each in part.binds] == [("/shared/data", "/data", True)]
        refused = part_of(tmp_path, allowed=False, mounts=mounts)
        assert refused.binds == []
        assert any("/shared/data" in each.text and each.important for each in refused.findings)

    def test_ports_become_services(self, tmp_path: Path) -> None:
        part = part_of(
            tmp_path,
            forwardPorts=[3000, "localhost:8080", "db:5432", 70000],
            portsAttributes={"3000": {"label": "Application", "onAutoForward": "silent"}},
        )
        assert part.ports == {3000: "Application", 8080: ""}
        assert [each.text.split(":")[0] for each in part.findings if each.verdict == "ignored"] == ["'db", "'70000'"]

    def test_commands_keep_their_order_and_their_words(self, tmp_path: Path) -> None:
        part = part_of(
            tmp_path,
            postAttachCommand="echo hello",
            postCreateCommand=["pip", "install", "-e", "a b"],
            onCreateCommand={"one": "make", "two": ["npm", "ci"]},
            postStartCommand="",
        )
        assert [(hook.key, hook.lines) for hook in part.hooks] == [
            ("onCreateCommand", (("one", "make"), ("two", "npm ci"))),
            ("postCreateCommand", (("", "pip install -e 'a b'"),)),
            ("postAttachCommand", (("", "echo hello"),)),
        ]


SHAPES: dict[str, dict[str, object]] = {
    "a compiler of GPU kernels": {
        "build": {
            "dockerfile": "Dockerfile",
            "context": "..",
            "args": {"USERNAME": "${localEnv:USER}", "CUSTOM_LLVM": "0"},
        },
        "runArgs": ["--device=/dev/dri", "--group-add=video", "--security-opt", "seccomp=unconfined"],
        "remoteUser": "root",
        "updateRemoteUserUID": True,
        "hostRequirements": {"gpu": "optional", "cpus": 8, "memory": "32gb"},
        "mounts": ["source=${localWorkspaceFolder}/../llvm,target=/llvm,type=bind,consistency=cached"],
        "customizations": {"vscode": {"extensions": ["ms-vscode.cpptools"], "settings": {"a": 1}}},
        "postCreateCommand": "pip install -e python",
    },
    "a framework with CUDA": {
        "name": "CUDA",
        "build": {"context": "../..", "dockerfile": "./Dockerfile", "args": {"REQUIRES_GPU": "yes"}},
        "runArgs": ["--gpus", "all"],
        "containerEnv": {"CUDA_HOME": "/usr/local/cuda"},
        "remoteEnv": {"PATH": "${containerEnv:PATH}:/usr/local/cuda/bin"},
        "capAdd": ["SYS_PTRACE"],
        "init": True,
        "forwardPorts": [6006, "8888"],
        "hostRequirements": {"gpu": {"cores": 1000, "memory": "16gb"}},
        "onCreateCommand": {"deps": ["make", "deps"], "hooks": "git config core.hooksPath x || true"},
        "postAttachCommand": "",
    },
    "a library with features": {
        "image": IMAGE,
        "features": {"registry.example.org/features/common-utils:2": {"installZsh": False}},
        "overrideFeatureInstallOrder": ["registry.example.org/features/common-utils"],
        "workspaceFolder": "/workspace",
        "workspaceMount": "source=${localWorkspaceFolder},target=/workspace,type=bind",
        "shutdownAction": "none",
        "waitFor": "onCreateCommand",
    },
}
"""The shapes of files in public repositories of GPU software, with names of our own."""


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_public_repositories_are_taken_and_every_key_is_named(tmp_path: Path, shape: str) -> None:
    config = read_dev_config(written(tmp_path, SHAPES[shape]), {"USER": "alice"})
    part = session_part(config, [], lambda _: False)
    named = " ".join(finding.key for finding in (*config.findings, *part.findings))
    elsewhere = {"name", "image", "build", "features", "overrideFeatureInstallOrder", "containerEnv", "workspaceFolder"}
    empty = {key for key, value in SHAPES[shape].items() if value == ""}
    assert [key for key in SHAPES[shape].keys() - elsewhere - empty if key not in named] == []
    lost = {finding.key for finding in (*config.findings, *part.findings) if finding.important}
    assert lost >= {key for key in ("runArgs", "capAdd", "workspaceMount") if key in SHAPES[shape]}


class TestIgnored:
    @pytest.mark.parametrize("key", [key for key in IGNORED if "." not in key])
    def test_each_key_that_no_session_can_honour_is_named_with_its_reason(self, tmp_path: Path, key: str) -> None:
        [finding] = config_of(tmp_path, **{key: ["--privileged"]}).findings
        assert (finding.key, finding.verdict) == (key, "ignored")
        assert IGNORED[key] in finding.text

    @pytest.mark.parametrize("key", ["privileged", "capAdd", "securityOpt", "runArgs", "initializeCommand"])
    def test_missing_privileges_are_important(self, tmp_path: Path, key: str) -> None:
        assert config_of(tmp_path, **{key: [True]}).findings[0].important
        assert not any(finding.important for finding in config_of(tmp_path, privileged=False).findings)

    def test_variables_of_the_user_that_get_into_the_image_are_named(self, tmp_path: Path) -> None:
        data = {"containerEnv": {"A": "${localEnv:HOME} ${localEnv:TOKEN:x}"}, "remoteEnv": {"B": "${localEnv:OTHER}"}}
        [finding] = config_of(tmp_path, **data).findings
        assert (finding.key, finding.important) == ("containerEnv", True)
        assert "HOME, TOKEN of your environment" in finding.text

    def test_unknown_keys_are_named_everywhere(self, tmp_path: Path) -> None:
        config = config_of(
            tmp_path,
            postCreateComand="x",
            hostRequirements={"cpu": 3},
            customizations={"jetbrains": {}, "vscode": {"settings": {}, "extensions": ["ms-python.python"]}},
            portsAttributes={"1": {"protocol": "https"}},
        )
        assert [finding.key for finding in config.findings] == [
            "postCreateComand",
            "hostRequirements.cpu",
            "customizations.jetbrains",
            "customizations.vscode.settings",
            "portsAttributes.1.protocol",
        ]
        assert "did you mean `postCreateCommand`?" in config.findings[0].text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("[]", "must be an object"),
        ("{}", "needs either `image` or `build.dockerfile`"),
        ({"image": IMAGE, "build": {"dockerfile": "D"}}, "needs either"),
        ({"dockerComposeFile": "a.yml", "service": "x"}, "`dockerComposeFile` is not supported"),
        ({"image": 3}, "`image`: must be text"),
        ({"image": "a\nb"}, "`image`: must be one line"),
        ({"build": {}}, "`build.dockerfile` is missing"),
        ({"build": {"dockerfile": "D", "args": ["a"]}}, "`build.args`: must be a map"),
        ({"build": {"dockerfile": "D", "target": "--x"}}, "`build.target`"),
        ({"image": IMAGE, "features": []}, "`features`: must be a map"),
        ({"image": IMAGE, "features": {"./a": 3}}, "`features"),
        ({"image": IMAGE, "features": {f"./a{n}": {} for n in range(65)}}, "`features`"),
        ({"image": IMAGE, "containerEnv": {"A B": "x"}}, "is not the name of a variable"),
        ({"image": IMAGE, "containerEnv": {"A": 1}}, "`containerEnv.A`: must be text"),
        ({"image": IMAGE, "containerEnv": {"A": "x\u0000"}}, "NUL"),
        ({"image": IMAGE, "remoteEnv": {"A;id": None}}, "is not the name of a variable"),
        ({"image": IMAGE, "mounts": "x"}, "`mounts`: must be a list"),
        ({"image": IMAGE, "mounts": ["type=npipe,target=/a"]}, "the type must be one of"),
        ({"image": IMAGE, "mounts": ["type=volume"]}, "the target must be an absolute path"),
        ({"image": IMAGE, "mounts": ["type=volume,target=/a/../b"]}, "the target must be an absolute path"),
        ({"image": IMAGE, "mounts": ["type=bind,source=data,target=/a"]}, "the source of a bind must be an absolute"),
        ({"image": IMAGE, "mounts": [3]}, "must be text such as"),
        ({"image": IMAGE, "workspaceFolder": "work"}, "must be an absolute path without"),
        ({"image": IMAGE, "workspaceFolder": "/a/../b"}, "must be an absolute path without"),
        ({"image": IMAGE, "forwardPorts": 80}, "`forwardPorts`: must be a list"),
        ({"image": IMAGE, "forwardPorts": list(range(1, 30))}, "`forwardPorts`: must have at most 24"),
        ({"image": IMAGE, "onCreateCommand": 3}, "`onCreateCommand"),
        ({"image": IMAGE, "onCreateCommand": {"a": {"b": "c"}}}, "`onCreateCommand"),
        ({"image": IMAGE, "postStartCommand": ["a\u0000"]}, "`postStartCommand"),
        ({"image": IMAGE, "hostRequirements": {"cpus": 0}}, "`hostRequirements.cpus`"),
        ({"image": IMAGE, "hostRequirements": {"cpus": "4"}}, "`hostRequirements.cpus`"),
        ({"image": IMAGE, "hostRequirements": {"memory": "8 GB"}}, "must be a number with"),
        ({"image": IMAGE, "hostRequirements": {"gpu": "yes"}}, "`hostRequirements.gpu"),
        (
            {"image": IMAGE, "customizations": {"vscode": {"extensions": ["a; id"]}}},
            "`customizations.vscode.extensions",
        ),
        ({"image": IMAGE, "customizations": {"berth": {"profile": "x"}}}, "unknown key `profile`"),
        ({"image": IMAGE, "overrideFeatureInstallOrder": "x"}, "`overrideFeatureInstallOrder`: must be a list"),
    ],
)
def test_wrong_file_is_refused_with_its_place(tmp_path: Path, data: object, said: str) -> None:
    file = written(tmp_path, data)
    with pytest.raises(ProfileError) as caught:
        read_dev_config(file, {})
    assert str(file) in caught.value.message
    assert said in caught.value.message, caught.value.message
    assert "pydantic" not in caught.value.message.lower()
