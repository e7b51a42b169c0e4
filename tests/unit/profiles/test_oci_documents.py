"""The documents of images: what is chosen from them, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from profiles.errors import OciImageError
from profiles.oci.descriptor import OCI_MANIFEST
from profiles.oci.documents import (
    OCI_CONFIG,
    OCI_LAYER,
    choose_manifest,
    parse_image_config,
    parse_manifest,
)
from profiles.oci.json_document import parse_json_object
from tests.container_images import sha256

DIGESTS = [sha256(bytes([number])) for number in range(5)]


def entry(number: int, **platform: str) -> dict[str, Any]:
    described = {"mediaType": OCI_MANIFEST, "digest": DIGESTS[number], "size": 10}
    return described | ({"platform": platform} if platform else {})


def index(*entries: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


LINUX_AMD = {"os": "linux", "architecture": "amd64"}
LINUX_ARM = {"os": "linux", "architecture": "arm64"}


@pytest.mark.parametrize(
    ("entries", "architecture", "chosen"),
    [
        ([entry(0, os="windows", architecture="amd64"), entry(1, **LINUX_AMD)], "amd64", 1),
        ([entry(0, **LINUX_AMD), entry(1, **LINUX_ARM, variant="v8")], "arm64", 1),
        ([entry(0, **LINUX_AMD, variant="v3"), entry(1, **LINUX_AMD)], "amd64", 1),
        ([entry(0, os="unknown", architecture="unknown"), entry(1, **LINUX_AMD)], "amd64", 1),
        ([entry(0)], "amd64", 0),
    ],
)
def test_image_for_this_machine_is_chosen(entries: list[object], architecture: str, chosen: int) -> None:
    assert choose_manifest(index(*entries), architecture).digest == DIGESTS[chosen]


HOSTILE_INDEXES: dict[str, tuple[bytes, str]] = {
    "other machines only": (index(entry(0, **LINUX_ARM)), "only for linux/arm64"),
    "newer processor only": (index(entry(0, **LINUX_AMD, variant="v4")), "only for linux/amd64/v4"),
    "two images": (index(entry(0), entry(1)), "2 images, and one is needed"),
    "empty": (index(), "must list"),
    "too many": (index(*[entry(0, **LINUX_AMD)] * 1025), "must list"),
    "no list": (b'{"manifests": {}}', "must list"),
    "text instead of an entry": (index("x"), "no JSON object"),
    "number as platform": (index(entry(0) | {"platform": 5}), "damaged platform"),
    "number as system": (index(entry(0) | {"platform": {"os": 5}}), "damaged platform"),
    "config as manifest": (index(entry(0, **LINUX_AMD) | {"mediaType": OCI_CONFIG}), "media type"),
    "no digest": (index(entry(0, **LINUX_AMD) | {"digest": "sha256:../../etc/passwd"}), "the digest"),
    "sha512": (index(entry(0, **LINUX_AMD) | {"digest": "sha512:" + "0" * 128}), "the digest"),
    "negative size": (index(entry(0, **LINUX_AMD) | {"size": -1}), "impossible size"),
    "size that is true": (index(entry(0, **LINUX_AMD) | {"size": True}), "impossible size"),
    "size beyond all disks": (index(entry(0, **LINUX_AMD) | {"size": 2**60}), "impossible size"),
}


@pytest.mark.parametrize("case", HOSTILE_INDEXES)
def test_hostile_index_is_refused(case: str) -> None:
    content, message = HOSTILE_INDEXES[case]
    with pytest.raises(OciImageError, match=message):
        choose_manifest(content, "amd64")


def manifest(**changes: object) -> bytes:
    layer = {"mediaType": f"{OCI_LAYER}+gzip", "digest": DIGESTS[1], "size": 5}
    config = {"mediaType": OCI_CONFIG, "digest": DIGESTS[0], "size": 5}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": [layer], **changes}).encode()


def test_manifest_gives_config_and_layers() -> None:
    found = parse_manifest(manifest())
    assert (found.config.digest, [layer.digest for layer in found.layers]) == (DIGESTS[0], [DIGESTS[1]])


HOSTILE_MANIFESTS: dict[str, tuple[bytes, str]] = {
    "of the old version": (manifest(schemaVersion=1), "version"),
    "without layers": (manifest(layers=[]), "must list"),
    "too many layers": (manifest(layers=[{}] * 300), "must list"),
    "without a config": (manifest(config=None), "no JSON object"),
    "artifact": (manifest(config={"mediaType": "application/vnd.oci.empty.v1+json"}), "media type"),
    "encrypted layer": (
        manifest(layers=[{"mediaType": f"{OCI_LAYER}+gzip+encrypted", "digest": DIGESTS[1], "size": 5}]),
        "layer 1 in the manifest has the media type",
    ),
    "layer from elsewhere": (
        manifest(layers=[{"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]),
        "media type",
    ),
    "two configs": (manifest()[:-1] + b', "config": {}}', "given twice"),
    "deep": (b'{"a":' * 100 + b"1" + b"}" * 100, "nested more than"),
    "deeper than the parser": (b"[" * 100_000, "nested more than"),
    "huge number": (manifest(size=10**30), "more than 19 digits"),
    "infinite number": (manifest()[:-1] + b', "x": 1e999}', "too large"),
    "NaN": (manifest()[:-1] + b', "x": NaN}', "is no number"),
    "not UTF-8": (b'{"a": "\xff"}', "not valid JSON"),
    "cut off": (manifest()[:-5], "not valid JSON"),
    "list": (b"[]", "no JSON object"),
    "nothing": (b"", "not valid JSON"),
    "too large": (b" " * (5 * 2**20), "larger than"),
}


@pytest.mark.parametrize("case", HOSTILE_MANIFESTS)
def test_hostile_manifest_is_refused(case: str) -> None:
    content, message = HOSTILE_MANIFESTS[case]
    with pytest.raises(OciImageError, match=message):
        parse_manifest(content)


def config(**changes: object) -> bytes:
    usual = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": DIGESTS[:1]}, "config": {"Env": ["A=b"]}}
    return json.dumps(usual | changes).encode()


def test_config_gives_digests_and_settings() -> None:
    found = parse_image_config(config(), 1, "amd64")
    assert (found.diff_ids, found.settings) == ((DIGESTS[0],), {"Env": ["A=b"]})
    assert parse_image_config(config(config=None), 1, "amd64").settings == {}


HOSTILE_CONFIGS: dict[str, tuple[bytes, str]] = {
    "for another machine": (config(architecture="arm64"), "linux/arm64, and this machine is linux/amd64"),
    "for another system": (config(os="windows"), "windows/amd64"),
    "without layers": (config(rootfs=None), "other layers"),
    "with more layers": (config(rootfs={"diff_ids": DIGESTS}), "other layers"),
    "with a wrong digest": (config(rootfs={"diff_ids": ["sha256:x"]}), "no sha256 digest"),
    "with settings of no form": (config(config=["x"]), "settings"),
}


@pytest.mark.parametrize("case", HOSTILE_CONFIGS)
def test_hostile_config_is_refused(case: str) -> None:
    content, message = HOSTILE_CONFIGS[case]
    with pytest.raises(OciImageError, match=message):
        parse_image_config(content, 1, "amd64")


def test_brackets_in_texts_are_no_nesting() -> None:
    text = json.dumps({"a": '[{"\\' * 100})
    assert parse_json_object(text.encode(), "it", 1000) == {"a": '[{"\\' * 100}
