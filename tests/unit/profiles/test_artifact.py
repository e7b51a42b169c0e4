"""The artefact of an image, and descriptions and recipes in it that a stranger has made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from profiles.errors import DamagedImageError, ProfileError, ProfilesError, TransferError
from profiles.exchange.artifact import SIF_CONFIG, SIF_LAYER, Artifact, ImageParts
from profiles.exchange.pull import check_texts
from profiles.image.store import DESCRIPTION, RECIPE, Image
from profiles.oci.descriptor import Descriptor
from profiles.recipe.spec import parse_profile

DIGEST = f"sha256:{'1' * 64}"
RECIPE_TEXT = (
    "name: small\nversion: '1'\nbase: debian:sid\nresources: {mem: 2G}\nfiles:\n- {destination: /a, source: b}\n"
)


OTHER_PROFILE = {"name": "other", "version": "1", "base": "debian:sid"}


def artifact() -> Artifact:
    return Artifact(Descriptor(SIF_LAYER, DIGEST, 100), Descriptor(SIF_CONFIG, DIGEST, 2))


def description(**changes: Any) -> str:  # noqa: ANN401 - any JSON
    profile = parse_profile(RECIPE_TEXT, Path("/x/profile.yaml"), need_sources=False)
    image = Image("small", "1", Path("/x/image.sif"), DIGEST, 100, 1.0e9, {}, profile, 4096)
    return json.dumps(image.description() | changes)


def parts(recipe: str = RECIPE_TEXT, described: str | None = None) -> ImageParts:
    return ImageParts({RECIPE: recipe, DESCRIPTION: description() if described is None else described})


def test_parts_of_an_image_come_back_from_the_configuration() -> None:
    sbom = Descriptor("application/vnd.cyclonedx+json", DIGEST, 7)
    made = replace(parts(), others={"sbom.cdx.json": sbom})
    assert ImageParts.from_config(made.as_config()) == made
    assert check_texts(made, artifact(), "r.example/small:1", any_resource).name == "small"


def any_resource(name: str, value: str | bool) -> None:
    if name == "reservation":
        raise ValueError(f"{name}={value} is not allowed here")


def test_configuration_of_another_program_is_not_ours() -> None:
    assert ImageParts.from_config(b"{}") is None
    assert ImageParts.from_config(b"[]") is None


@pytest.mark.parametrize(
    "berth",
    [
        7,
        {"format": 2},
        {"format": 1},
        {"format": 1, "texts": [], "files": {}},
        {"format": 1, "texts": {"../../x": "y"}, "files": {}},
        {"format": 1, "texts": {"image.sif": "y"}, "files": {}},
        {"format": 1, "texts": {"profile.yaml": 7}, "files": {}},
        {"format": 1, "texts": {"profile.yaml": "x" * (2**20 + 1)}, "files": {}},
        {"format": 1, "texts": {}, "files": {"packages.txt": 7}},
        {"format": 1, "texts": {}, "files": {"packages.txt": {"digest": "../x", "size": 1, "mediaType": "x"}}},
        {"format": 1, "texts": {}, "files": {"packages.txt": {"digest": DIGEST, "size": 2**30, "mediaType": "x"}}},
    ],
)
def test_hostile_configuration_is_refused(berth: Any) -> None:  # noqa: ANN401 - any JSON
    with pytest.raises(TransferError):
        ImageParts.from_config(json.dumps({"berth": berth}).encode())


def test_files_that_are_not_in_the_list_are_not_written() -> None:
    files = {"../../evil": {}, "build.log": {"digest": DIGEST, "size": 1, "mediaType": "x"}}
    found = ImageParts.from_config(json.dumps({"berth": {"format": 1, "texts": {}, "files": files}}).encode())
    assert found == ImageParts({})


@pytest.mark.parametrize(
    ("made", "kind", "words"),
    [
        (ImageParts({RECIPE: RECIPE_TEXT}), TransferError, "has no image.json"),
        (ImageParts({DESCRIPTION: description()}), TransferError, "has no profile.yaml"),
        (parts(recipe="name: [\n"), ProfileError, "profile.yaml"),
        (parts(recipe=RECIPE_TEXT + "evil: 1\n"), ProfileError, "evil"),
        (parts(recipe=RECIPE_TEXT.replace("small", "../../small")), ProfileError, "lower-case"),
        (parts(recipe=RECIPE_TEXT.replace("mem: 2G", "reservation: x")), ProfileError, "not allowed here"),
        (parts(recipe=RECIPE_TEXT.replace("small", "other")), DamagedImageError, "describes small@1"),
        (parts(recipe=RECIPE_TEXT.replace("'1'", "'2'")), DamagedImageError, "describes small@1"),
        (parts(described=description(name="other")), DamagedImageError, "describes other@1"),
        (parts(described=description(profile=OTHER_PROFILE)), DamagedImageError, "in name"),
        (parts(described=description(digest=f"sha256:{'2' * 64}")), DamagedImageError, "in digest"),
        (parts(described=description(size=99)), DamagedImageError, "in size"),
        (parts(described=description(created=1e15)), DamagedImageError, "in time"),
        (parts(described=description(labels={"a": "x" * 5000})), DamagedImageError, "in labels"),
        (parts(described=description(profile={})), DamagedImageError, "image.json"),
        (parts(described="{"), DamagedImageError, "image.json"),
        (parts(described="[" * 100_000), DamagedImageError, "image.json"),
        (parts(described=description(created="nan")), DamagedImageError, "in time"),
    ],
)
def test_image_that_contradicts_itself_is_refused(made: ImageParts, kind: type[ProfilesError], words: str) -> None:
    with pytest.raises(kind, match=words):
        check_texts(made, artifact(), "r.example/small:1", any_resource)


def test_resources_of_the_description_pass_the_check_of_a_recipe() -> None:
    described = json.loads(description())
    described["profile"]["resources"] = {"reservation": "x"}
    with pytest.raises(ProfileError, match=r"resources\.reservation"):
        check_texts(parts(described=json.dumps(described)), artifact(), "r.example/small:1", any_resource)
