"""The label `devcontainer.metadata` of an image, merged with a devcontainer.json by the rules of the specification."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from profiles.build.import_report import ImportReport, ignored_settings, image_environment, read_image_metadata
from profiles.devcontainer.config import read_dev_config
from profiles.devcontainer.image_metadata import (
    MAX_ENTRIES,
    MAX_METADATA_CHARS,
    METADATA_LABEL,
    ImageMetadata,
    merge_metadata,
    metadata_entries,
    metadata_findings,
    read_metadata,
)
from profiles.devcontainer.plan import make_plan, plan_with_metadata
from profiles.errors import ProfileError
from profiles.image.catalog import Catalog

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.devcontainer.config import DevConfig
    from profiles.devcontainer.plan import DevPlan
    from profiles.devcontainer.schema import DevContainer


def label(*parts: dict[str, Any]) -> ImageMetadata:
    found = read_metadata({"Labels": {METADATA_LABEL: json.dumps(parts)}})
    assert not found.fault
    return found


def config(folder: Path, **data: object) -> DevConfig:
    (folder / ".devcontainer").mkdir(exist_ok=True)
    file = folder / ".devcontainer/devcontainer.json"
    file.write_text(json.dumps({"customizations": {"berth": {"base": "debian:sid"}}, **data}))
    return read_dev_config(file, {"TOKEN": "mine"})


def merged(folder: Path, *parts: dict[str, Any], **data: object) -> DevContainer:
    own = config(folder, **data)
    return merge_metadata(own, metadata_entries(label(*parts), own)).dev


def planned(folder: Path, *parts: dict[str, Any], **data: object) -> DevPlan:
    own = config(folder, **data)
    plan = make_plan(own.file, bases=Catalog({}), registry=None, is_allowed=lambda _: False)  # type: ignore[arg-type] # no features
    return plan_with_metadata(plan, label(*parts), lambda _: False)


def test_variables_of_the_file_override_those_of_the_image(tmp_path: Path) -> None:
    dev = merged(
        tmp_path,
        {"remoteEnv": {"A": "1", "B": "1", "C": "1"}},
        {"remoteEnv": {"B": "2", "C": "2"}},
        remoteEnv={"C": "3"},
    )
    assert dev.remote_env == {"A": "1", "B": "2", "C": "3"}


def test_ports_are_a_union_and_the_last_attributes_of_a_port_count(tmp_path: Path) -> None:
    dev = merged(
        tmp_path,
        {"forwardPorts": [80, 90], "portsAttributes": {"80": {"label": "of the image"}, "90": {"label": "kept"}}},
        forwardPorts=[90, 100],
        portsAttributes={"80": {"label": "of the file"}},
    )
    assert dev.forward_ports == [80, 90, 100]
    assert {port: each.label for port, each in dev.ports_attributes.items()} == {"80": "of the file", "90": "kept"}


def test_last_mount_of_a_target_counts(tmp_path: Path) -> None:
    image = {"mounts": ["type=volume,source=a,target=/a", "type=volume,source=b,target=/b"]}
    dev = merged(tmp_path, image, mounts=["type=volume,source=c,target=/a"])
    assert {(each.source, each.target) for each in dev.mounts} == {("c", "/a"), ("b", "/b")}


def test_bind_of_the_image_is_ignored_and_reported(tmp_path: Path) -> None:
    part = {"mounts": ["type=bind,source=${localWorkspaceFolder}/x,target=/a", "type=volume,target=/b"]}
    plan = planned(tmp_path, part)
    assert [each.target for each in plan.config.dev.mounts] == ["/b"]
    assert {each.key: each.verdict for each in plan.findings}["mounts of the image"] == "ignored"
    assert plan.session.binds == []


@pytest.mark.parametrize(
    ("image", "own", "expected"),
    [
        (False, "optional", "optional"),
        (True, "optional", True),
        ("optional", "optional", "optional"),
        ("optional", False, "optional"),
        ({"cores": 8}, True, {"cores": 8, "memory": None}),
        ({"cores": 8, "memory": "2gb"}, {"cores": 4, "memory": "4096mb"}, {"cores": 8, "memory": "4096mb"}),
    ],
)
def test_largest_requirement_counts(tmp_path: Path, image: object, own: object, expected: object) -> None:
    host = merged(
        tmp_path,
        {"hostRequirements": {"cpus": 4, "memory": "2gb", "gpu": image}},
        hostRequirements={"cpus": 2, "memory": "3000mb", "storage": "1tb", "gpu": own},
    ).host
    assert (host.cpus, host.memory, host.storage) == (4, "3000mb", "1tb")
    assert (host.gpu if isinstance(host.gpu, bool | str) else host.gpu.model_dump()) == expected


def test_extensions_are_a_union(tmp_path: Path) -> None:
    image = {"customizations": {"vscode": {"extensions": ["a.b", "c.d"], "settings": {"x": 1}}}}
    dev = merged(
        tmp_path, image, customizations={"berth": {"base": "debian:sid"}, "vscode": {"extensions": ["c.d", "e.f"]}}
    )
    assert dev.customizations.vscode.extensions == ["a.b", "c.d", "e.f"]


def test_commands_of_the_image_run_first_and_all_of_them(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        {"id": "registry.example.org/features/tool:1", "postCreateCommand": "one"},
        {"postCreateCommand": ["two", "words"], "onCreateCommand": "zero"},
        postCreateCommand="three",
    )
    assert [(hook.title, hook.lines[0][1]) for hook in plan.session.hooks] == [
        ("onCreateCommand of the image", "zero"),
        ("postCreateCommand of registry.example.org/features/tool:1", "one"),
        ("postCreateCommand of the image", "two words"),
        ("postCreateCommand", "three"),
    ]


def test_report_names_the_label_and_what_no_session_honours(tmp_path: Path) -> None:
    part = {"privileged": True, "init": False, "remoteUser": "vscode", "remoteEnv": {"A": "1"}}
    found = {each.key: each for each in planned(tmp_path, part).findings}
    assert found[METADATA_LABEL].verdict == "taken"
    assert found["privileged of the image"].important
    assert not found["remoteUser of the image"].important
    assert "init of the image" not in found
    assert found["remoteEnv"].verdict == "taken"


def test_image_does_not_get_the_users_environment(tmp_path: Path) -> None:
    dev = merged(tmp_path, {"remoteEnv": {"A": "${localEnv:TOKEN}", "B": "${containerWorkspaceFolder}"}})
    assert dev.remote_env == {"A": "", "B": f"/workspaces/{tmp_path.name}"}


def test_container_variables_get_into_the_image_and_the_recipe_wins() -> None:
    metadata = label({"containerEnv": {"A": "of the $label", "B": "x"}}, {"containerEnv": {"B": "last"}})
    taken, items = image_environment({"Env": ["A=of the image", "PATH=/bin"]}, {"B": "recipe"}, metadata)
    assert taken == {"A": "of the $$label", "PATH": "/bin", "B": "last"}
    assert items[-1].reason == "the recipe sets it too, and comes later"
    assert [each.key for each in ignored_settings({"Labels": {METADATA_LABEL: "x", "a": "b"}}, metadata)] == [
        METADATA_LABEL, "Label a",
    ]  # fmt: skip


def test_label_is_read_back_from_beside_the_image(tmp_path: Path) -> None:
    metadata = label({"remoteEnv": {"A": "1"}, "future": [1]})
    ImportReport("oci:x", "sha256:0", [], metadata).write(tmp_path)
    assert read_image_metadata(tmp_path) == metadata
    assert read_image_metadata(tmp_path / "none") == ImageMetadata()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 100_000,
        "3",
        '["a"]',
        '[{"remoteEnv": {"A B": "x"}}]',
        '[{"forwardPorts": "80"}]',
        '[{"mounts": ["type=npipe,target=/a"]}]',
        '[{"postCreateCommand": {"a": {"b": "c"}}}]',
        json.dumps([{}] * (MAX_ENTRIES + 1)),
        json.dumps([{"id": "x" * MAX_METADATA_CHARS}]),
        5,
    ],
)
def test_damaged_label_is_ignored_as_a_whole_and_reported(text: object) -> None:
    found = read_metadata({"Labels": {METADATA_LABEL: text}})
    assert found.entries == ()
    [finding] = metadata_findings(found)
    assert (finding.verdict, finding.important) == ("ignored", True)
    assert finding.text.isprintable()


def test_label_that_becomes_too_large_with_its_variables_is_refused(tmp_path: Path) -> None:
    text = "${localWorkspaceFolder}" * 10_000
    own = config(tmp_path)
    far = replace(own, workspace=tmp_path / ("x" * 200))
    with pytest.raises(ProfileError, match=r"label devcontainer\.metadata does not fit"):
        metadata_entries(label({"remoteEnv": {"A": text}}), far)


def test_one_object_is_a_list_of_one() -> None:
    assert read_metadata({"Labels": {METADATA_LABEL: '{"remoteEnv": {"A": "1"}}'}}).entries == (
        {"remoteEnv": {"A": "1"}},
    )
    assert read_metadata({"Labels": {"a": "b"}}) == read_metadata({}) == ImageMetadata()
