"""`pull_image`: copy an image from a registry to a store, where it is published like one that was built there.

Everything that comes from the registry may be hostile. The SIF counts only with its digest and size. The recipe and the
description pass the checks that a recipe passes before its build, and must say the same.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.errors import (
    DamagedImageError,
    ImageExistsError,
    NotInRegistryError,
    ProfileError,
    StoreError,
    TransferError,
)
from profiles.exchange.artifact import CONFIG_TYPES, MAX_CONFIG_BYTES, Artifact, ImageParts, read_artifact
from profiles.exchange.attachments import CORE, MAX_ATTACHMENT_BYTES
from profiles.exchange.foreign_image import MAX_LABEL_CHARACTERS, MAX_LABELS, ForeignName, describe_foreign
from profiles.image.sif import squashfs_offset
from profiles.image.signature_file import SIGNATURE, SignatureFile
from profiles.image.store import DESCRIPTION, IMAGE, LOG, RECIPE, Image, Store, parse_image
from profiles.oci.registry_client import RegistryClient, TransferCallback
from profiles.recipe.resources import any_option
from profiles.recipe.spec import parse_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from profiles.oci.reference import ImageReference
    from profiles.oci.registry_access import RegistryAccess
    from profiles.recipe.resources import OptionCheck

MAX_TIME_S = 1e11
"""Seconds since the epoch; a larger number would be milliseconds by mistake."""
ORIGIN_HINT = "nothing was kept; ask who pushed it"
RESERVE_BYTES = 2**26
"""Bytes that must stay free in a store."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image in the store."""

    image: Image
    digest: str
    """`sha256:…` of the manifest in the registry."""
    is_new: bool
    """False: the store had the version, with the same digest."""
    missing: list[str]
    """Files that belong to the image and that the registry does not have any more."""


def pull_image(
    reference: ImageReference,
    *,
    store: Store,
    access: RegistryAccess,
    foreign_name: ForeignName,
    check_option: OptionCheck = any_option,
    admit: Callable[[Image], object] = lambda _: None,
    progress: TransferCallback = lambda _done, _total: None,
) -> Pulled:
    """Copy the image `reference` to `store`.

    An image that Apptainer pushed has no recipe: `foreign_name` says what it is called here. `admit` gets the image as
    it would be published, with its signature, and raises if it may not enter the store: of one with a recipe, before
    the SIF is fetched. Raises ImageExistsError if the store has the version with another digest, DamagedImageError or
    ProfileError for an image that contradicts itself or has an invalid recipe, StoreError, and TransferError. Then, and
    after an interruption, nothing is published or left.
    """
    with RegistryClient(reference, access, progress=progress) as client:
        manifest = client.manifest(reference.target)
        artifact = read_artifact(manifest, str(reference))
        parts = _read_parts(client, artifact)
        if parts is None:
            name, version = foreign_name.resolve(reference)
        else:
            foreign_name.require_unused(str(reference))
            checked = check_texts(parts, artifact, str(reference), check_option)
            name, version = checked.name, checked.version
        if present := _present(store, name, version, artifact):
            return Pulled(present, manifest.digest, is_new=False, missing=[])
        store.check_writable(name)
        if parts is not None:
            admit(_image_in(store.path / name / version, parts.texts))
        stage = store.stage(name, version)
        try:
            _require_space(stage, artifact)
            client.fetch_blob(artifact.layer, stage / IMAGE)
            if parts is None:
                where = str(reference.with_digest(manifest.digest))
                described = describe_foreign(stage, name, version, artifact.layer.digest, where)
                admit(_image_in(store.path / name / version, {DESCRIPTION: described}))
                missing = []
            else:
                _require_same_offset(stage, parts)
                missing = _write_parts(client, stage, parts)
            _write_log(stage, reference, manifest.digest)
            return Pulled(store.publish(stage, name, version), manifest.digest, is_new=True, missing=missing)
        except OSError as error:
            raise StoreError(f"cannot write to {store.path}: {error.strerror}") from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _read_parts(client: RegistryClient, artifact: Artifact) -> ImageParts | None:
    """Return the files of the image; None if Berth has not made the artefact."""
    if artifact.config.media_type not in CONFIG_TYPES or artifact.config.size == 0:
        return None
    return ImageParts.from_config(client.read_blob(artifact.config, MAX_CONFIG_BYTES))


def check_texts(parts: ImageParts, artifact: Artifact, origin: str, check_option: OptionCheck) -> Image:
    """Return the image that the description describes; its path means nothing yet. Messages name the `origin`.

    Raises ProfilesError if anything in recipe or description is not as it must be.
    """
    try:
        text, description = parts.texts[RECIPE], parts.texts[DESCRIPTION]
    except KeyError as error:
        raise TransferError(f"the image in the registry has no {error.args[0]}", hint="push it again") from error
    place = Path(origin)
    recipe = parse_profile(text, place / RECIPE, check_option, need_sources=False)
    try:
        image = parse_image(description.encode(), place / recipe.name / recipe.version, offset=0)
    except DamagedImageError as error:
        raise DamagedImageError(error.message, hint=ORIGIN_HINT) from error
    contradictions = {
        "name": {image.name, image.profile.name} != {recipe.name},
        "version": {image.version, image.profile.version} != {recipe.version},
        "digest": image.digest != artifact.layer.digest,
        "size": image.size != artifact.layer.size,
        "time": not 0 <= image.created < MAX_TIME_S,
        "labels": len(image.labels) > MAX_LABELS
        or any(len(each) > MAX_LABEL_CHARACTERS for pair in image.labels.items() for each in pair),
    }
    if wrong := [what for what, contradicts in contradictions.items() if contradicts]:
        raise _contradiction(", ".join(wrong))
    _check_resources(image, place / DESCRIPTION, check_option)
    return image


def _check_resources(image: Image, file: Path, check_option: OptionCheck) -> None:
    for name, value in image.profile.resources.items():
        try:
            check_option(name, value)
        except ValueError as error:
            raise ProfileError(f"`resources.{name}`: {error}", file=file) from error


def _image_in(directory: Path, texts: Mapping[str, str]) -> Image:
    """Return the image that these files beside a SIF describe, as it will be in `directory`."""
    return parse_image(texts[DESCRIPTION].encode(), directory, 0, SignatureFile(texts.get(SIGNATURE)))


def _present(store: Store, name: str, version: str, artifact: Artifact) -> Image | None:
    """Return the published version if it is this image. Raises ImageExistsError if it is another one."""
    if version not in store.versions(name):
        return None
    present = store.read(name, version)
    if present.digest != artifact.layer.digest:
        raise ImageExistsError(
            f"{name}@{version} is published in {store.path} with another content ({present.digest})",
            hint="versions are never overwritten: delete that one first, or have this one pushed under another version",
        )
    return present


def _require_space(stage: Path, artifact: Artifact) -> None:
    """Raise StoreError if the store's file system has no room for the image."""
    free = shutil.disk_usage(stage).free
    if free < artifact.layer.size + RESERVE_BYTES:
        raise StoreError(
            f"the image has {artifact.layer.size // 2**20} MiB, and {free // 2**20} MiB are free in the store",
            hint="make room, or name another store with --store",
        )


def _require_same_offset(stage: Path, parts: ImageParts) -> None:
    """Raise DamagedImageError unless the description says where the file system of the SIF is."""
    offset = squashfs_offset(stage / IMAGE)
    if json.loads(parts.texts[DESCRIPTION]).get("offset", offset) != offset:
        raise _contradiction("the place of the file system")


def _write_parts(client: RegistryClient, stage: Path, parts: ImageParts) -> list[str]:
    """Write the files that belong to the image. Return the names of those that the registry does not have any more."""
    missing = []
    for name, text in parts.texts.items():
        (stage / name).write_bytes(text.encode())
    for name, descriptor in parts.others.items():
        if name in CORE:
            continue
        try:
            (stage / name).write_bytes(client.read_blob(descriptor, MAX_ATTACHMENT_BYTES))
        except NotInRegistryError:
            missing.append(name)
    return missing


def _write_log(stage: Path, reference: ImageReference, digest: str) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    (stage / LOG).write_text(f"{now} pulled from {reference.with_digest(digest)}\n")


def _contradiction(what: str) -> DamagedImageError:
    return DamagedImageError(f"the image in the registry contradicts itself in {what}", hint=ORIGIN_HINT)
