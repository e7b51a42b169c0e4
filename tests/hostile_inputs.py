"""Inputs of a stranger for `berth profile build`: each makes files in a room, and has words of its refusal.

A preparation gets the room, writes there, and returns the text of the recipe's `base:` and what follows it, or the
bytes of the whole recipe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.buildah_machine import FROM_BASE, write_base
from tests.container_images import MadeImage, Member, descriptor, layer, layout_files, make_image, write_archive
from tests.hostile_layers import HOSTILE_AT_ANY_LIMIT, OUTSIDE
from tests.unit.profiles.dev_features import write_feature

Preparation = Callable[[Path], str | bytes]
HEAD = "name: tiny\nversion: 1\nbase: debian:sid\n"
ARCHIVE = "oci-archive:image.tar\n"


def _layers(layers: list[bytes]) -> Preparation:
    def prepare(room: Path) -> str:
        write_archive(layout_files(make_image(layers)), room / "image.tar")
        return ARCHIVE

    return prepare


def _document(name: str, content: bytes) -> Preparation:
    """Return the preparation of an image with another index, manifest or configuration, whose digests are right."""

    def prepare(room: Path) -> str:
        image = make_image([layer(Member("bin/sh"))])
        manifest, blobs = image.manifest, dict(image.blobs)
        if name == "config":
            changed = json.loads(manifest) | {"config": descriptor(content, "application/vnd.oci.image.config.v1+json")}
            manifest = json.dumps(changed).encode()
            blobs |= {descriptor(content, "")["digest"]: content}
        elif name == "manifest":
            manifest = content
        files = layout_files(MadeImage(blobs | {descriptor(manifest, "")["digest"]: manifest}, manifest, b""))
        write_archive(files | ({"index.json": content} if name == "index" else {}), room / "image.tar")
        return ARCHIVE

    return prepare


def _archive(content: bytes) -> Preparation:
    def prepare(room: Path) -> str:
        (room / "image.tar").write_bytes(content)
        return ARCHIVE

    return prepare


def _dockerfile(content: bytes | str) -> Preparation:
    def prepare(room: Path) -> str:
        context = room / "context"
        context.mkdir()
        write_base(context)
        (context / "Dockerfile").write_bytes(content if isinstance(content, bytes) else content.encode())
        return "dockerfile:context\n"

    return prepare


def _linked_dockerfile(room: Path) -> str:
    (room / "context").mkdir()
    (room / "context/Dockerfile").symlink_to("/etc/shadow")
    return "dockerfile:context\n"


def _copied_link(room: Path) -> str:
    """Prepare a context whose file is a link to one outside, which must not get into an image."""
    base = _dockerfile(f"{FROM_BASE}COPY link/sentinel /stolen\n")(room)
    (room / "context/link").symlink_to(room.parent / OUTSIDE)
    return str(base)


def _recipe(text: str | bytes) -> Preparation:
    return lambda _: text if isinstance(text, bytes) else text.encode()


def _fifo(room: Path) -> str:
    os.mkfifo(room / "image.tar")
    return ARCHIVE


def _dev_container(data: object, features: dict[str, dict[str, Any]] | None = None) -> Preparation:
    def prepare(room: Path) -> str:
        folder = room / "repository/.devcontainer"
        folder.mkdir(parents=True)
        text = data if isinstance(data, str) else json.dumps(data)
        (folder / "devcontainer.json").write_text(text)
        for name, metadata in (features or {}).items():
            write_feature(folder / name, **metadata)
        return "devcontainer:repository\n"

    return prepare


_CONFIG = json.loads(make_image([layer(Member("bin/sh"))]).config)
_MANIFEST = json.loads(make_image([layer(Member("bin/sh"))]).manifest)
_DEBIAN = {"customizations": {"berth": {"base": "debian:sid"}}}
_BOMB = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 9))

DOCUMENTS: dict[str, tuple[Preparation, str]] = {
    "index that is no JSON": (_document("index", b"<html>"), "not valid JSON"),
    "index nested without an end": (_document("index", b"[" * 100_000), "nested more than"),
    "index that is a list": (_document("index", b"[]"), "no JSON object"),
    "index without images": (_document("index", b'{"schemaVersion": 2, "manifests": []}'), "must list"),
    "index of the old version": (_document("index", b'{"schemaVersion": 1}'), "version|must list"),
    "manifest that is huge": (_document("manifest", b" " * (5 * 2**20)), "larger than"),
    "manifest without layers": (_document("manifest", json.dumps(_MANIFEST | {"layers": []}).encode()), "must list"),
    "manifest with a key twice": (_document("manifest", b'{"layers": [], "layers": []}'), "given twice"),
    "digest that is a path": (
        _document("manifest", json.dumps(_MANIFEST | {"config": {"digest": "sha256:../../x", "size": 2}}).encode()),
        "digest|media type",
    ),
    "configuration of another machine": (
        _document("config", json.dumps(_CONFIG | {"architecture": "vax"}).encode()),
        "linux/vax",
    ),
    "configuration with more layers": (
        _document("config", json.dumps(_CONFIG | {"rootfs": {"diff_ids": ["sha256:" + "0" * 64] * 2}}).encode()),
        "other layers",
    ),
    "configuration with other layers": (
        _document("config", json.dumps(_CONFIG | {"rootfs": {"diff_ids": ["sha256:" + "0" * 64]}}).encode()),
        "configuration says",
    ),
    "configuration with endless numbers": (_document("config", b'{"os": 1e999}'), "too large"),
    "archive of nothing": (_archive(b""), "no readable file|no tar archive|ends"),
    "archive of noise": (_archive(os.urandom(4096)), "no tar archive|no readable file"),
    "archive that is cut off": (_archive(layer(Member("index.json", b"{}"))[:700]), "readable|ends|oci-layout"),
    "archive whose blob is a link to a file of the machine": (
        _archive(layer(Member("oci-layout", kind=b"2", link="/etc/passwd"))),
        "no readable file",
    ),
    "archive that is a pipe": (_fifo, "there is no file"),
}
DOCKERFILES: dict[str, tuple[Preparation, str]] = {
    "Dockerfile without FROM": (_dockerfile("RUN true\n"), "has no FROM"),
    "Dockerfile with a NUL": (_dockerfile("FROM scratch\nRUN a\0b\n"), "NUL"),
    "Dockerfile that is no text": (_dockerfile(b"FROM \xff\xfe\n"), "not UTF-8"),
    "Dockerfile that is huge": (_dockerfile("# x\n" * 300_000), "too large|larger"),
    "Dockerfile without an end": (_dockerfile("FROM scratch\n" + "RUN x\n" * 5000), "more than 4096"),
    "Dockerfile that is a link to a file of the machine": (_linked_dockerfile, "Permission denied|has no FROM|repos"),
    "COPY from above the context": (_dockerfile("FROM scratch\nCOPY ../outside /x\n"), "Dockerfile:2"),
    "COPY from a link out of the context": (_copied_link, "Dockerfile:3"),
    "ADD from above the context": (_dockerfile("FROM scratch\nADD ../../etc/passwd /x\n"), "Dockerfile:2"),
    "COPY from a stage that is not there": (_dockerfile("FROM scratch\nCOPY --from=b /x /x\n"), "failed"),
    "FROM a host that is not there": (_dockerfile("FROM not.there.invalid/x:1\n"), "not.there.invalid"),
    "FROM a folder of the machine": (_dockerfile("FROM dir:/etc\n"), "failed"),
    "RUN --mount of a folder of the machine": (
        _dockerfile(f"{FROM_BASE}RUN --mount=type=bind,source=/etc,target=/x,from=/ cat /x/shadow\n"),
        "failed",
    ),
    "an instruction that does not exist": (_dockerfile("FROM scratch\nSTEAL /\n"), "Unknown instruction"),
}
RECIPES: dict[str, tuple[Preparation, str]] = {
    "recipe that is no YAML": (_recipe("name: [\n"), "YAML|is not valid|expected"),
    "recipe that is a list": (_recipe("- a\n"), "map|keys"),
    "recipe nested without an end": (_recipe("[" * 50_000), "nested|YAML|deep|large"),
    "recipe with aliases that grow": (_recipe(f"x0: &x0 [a]\n{_BOMB}{HEAD}"), "alias|unknown key|anchor"),
    "recipe that is huge": (_recipe("# x\n" * 2_000_000), "large|larger"),
    "recipe that is no text": (_recipe(b"\xff\xfe\x00"), "UTF-8|text"),
    "recipe with a tag of Python": (_recipe(f"{HEAD}description: !!python/object/apply:os.getcwd []\n"), "descri|tag"),
    "name that is a path": (_recipe(HEAD.replace("tiny", "../../tiny")), "name"),
    "version that is a path": (_recipe(HEAD.replace("version: 1", "version: ../1")), "version"),
    "base that is unknown": (_recipe(HEAD.replace("debian:sid", "http://x")), "debian:<suite>"),
    "suite that is an option": (_recipe(HEAD.replace("sid", "--help")), "debian:<suite>"),
    "package that is a command": (_recipe(f"{HEAD}apt: ['x;touch /tmp/y']\n"), "apt"),
    "package that is an option": (_recipe(f"{HEAD}apt: [--allow-unauthenticated]\n"), "apt"),
    "variable of the session": (_recipe(f"{HEAD}environment: {{SLURM_JOB_ID: 1}}\n"), "set by the session"),
    "variable of two lines": (_recipe(f'{HEAD}environment: {{A: "x\\ny"}}\n'), "one line"),
    "file to a relative place": (_recipe(f"{HEAD}files: [{{destination: ../x, content: x}}]\n"), "absolute path"),
    "bind with another one in it": (_recipe(f"{HEAD}binds: [{{source: '/a:/etc'}}]\n"), "must not contain"),
    "image without a digest's form": (_recipe(HEAD.replace("debian:sid", "oci:h.example/a@sha256:x")), "digest|oci:"),
}
DEV_CONTAINERS: dict[str, tuple[Preparation, str]] = {
    "devcontainer.json that is a list": (_dev_container([]), "must be an object"),
    "devcontainer.json nested without an end": (_dev_container("[" * 100_000), "nested|deep"),
    "devcontainer.json that is cut off": (_dev_container('{"image": "'), "line 1|:1"),
    "several containers": (_dev_container({"dockerComposeFile": "x.yml"}), "not supported"),
    "Dockerfile outside the repository": (
        _dev_container({"build": {"dockerfile": "../../outside/sentinel"}}),
        "leads out of the repository",
    ),
    "context outside the repository": (
        _dev_container({"build": {"dockerfile": "devcontainer.json", "context": "../.."}}),
        "leads out of the repository",
    ),
    "feature outside the folder": (_dev_container(_DEBIAN | {"features": {"../../x": {}}}), "feature"),
    "feature that is not there": (_dev_container(_DEBIAN | {"features": {"./none": {}}}), "devcontainer-feature.json"),
    "features that need each other": (
        _dev_container(
            _DEBIAN | {"features": {"./a": {}}}, {"a": {"dependsOn": {"./b": {}}}, "b": {"dependsOn": {"./a": {}}}}
        ),
        "need each other|circle",
    ),
    "option of a feature with two lines": (
        _dev_container(_DEBIAN | {"features": {"./a": {"free": "x\ny"}}}, {"a": {}}),
        "option|line",
    ),
    "target that is an option": (_dev_container({"build": {"dockerfile": "D", "target": "--x"}}), "build.target"),
}
HOSTILE_INPUTS: dict[str, tuple[Preparation, str]] = {
    **{name: (_layers(layers), words) for name, (layers, words) in HOSTILE_AT_ANY_LIMIT.items()},
    **DOCUMENTS,
    **DOCKERFILES,
    **RECIPES,
    **DEV_CONTAINERS,
}
