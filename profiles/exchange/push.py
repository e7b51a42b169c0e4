"""`push_image`: copy a published image to a registry."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from profiles.errors import (
    ImageExistsError,
    ProfilesError,
    ReferenceInvalidError,
    RegistryRefusedError,
    TransferError,
)
from profiles.exchange.artifact import (
    PLAIN_CONFIG,
    SIF_CONFIG,
    SIF_LAYER,
    Artifact,
    ImageParts,
    read_artifact,
    write_manifest,
)
from profiles.exchange.attachments import ATTACHMENT_TYPES, CORE, MAX_ATTACHMENT_BYTES, MAX_CORE_BYTES
from profiles.exchange.cosign import sign_in_registry
from profiles.exchange.provenance import PROVENANCE, PROVENANCE_TYPE, make_provenance
from profiles.exchange.referrers import TITLE, attach
from profiles.image.store import DESCRIPTION, RECIPE, verify_image
from profiles.oci.descriptor import OCI_MANIFEST, Descriptor, StoredManifest, bytes_digest
from profiles.oci.registry_client import RegistryClient, TransferCallback
from profiles.userfile import read_bytes

if TYPE_CHECKING:
    from profiles.image.store import Image
    from profiles.oci.reference import ImageReference
    from profiles.oci.registry_access import RegistryAccess
    from profiles.signature.keys import PrivateSigningKey


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image in a registry."""

    reference: ImageReference
    digest: str
    """`sha256:…` of the manifest: `REGISTRY/NAME@DIGEST` names exactly this image."""
    uploaded: bool
    """Whether the registry lacked the SIF."""
    attached: list[str]
    """The names of the files that went with it."""


def version_tag(version: str) -> str:
    """Return the tag for a version: the same text, with `_` for `+` and `~`, which tags cannot have."""
    return version.replace("+", "_").replace("~", "_")


def push_image(
    image: Image,
    reference: ImageReference,
    *,
    access: RegistryAccess,
    move_tag: bool = False,
    progress: TransferCallback = lambda _done, _total: None,
    sign_key: PrivateSigningKey | None = None,
) -> Pushed:
    """Copy an image with the files beside it to `reference`, whose tag is set last.

    Without a tag in `reference` that is the version. The provenance is attached too; with `sign_key` both are signed
    for other tools, as cosign does. Raises DamagedImageError if the image is not what was published, ImageExistsError
    if the tag names another image, unless `move_tag`, and TransferError. Then the tag is as before.
    """
    if reference.digest:
        raise ReferenceInvalidError(
            f"{reference} has a digest, which only the registry can give",
            hint="push to a tag, or to a name without one",
        )
    target = reference if reference.tag else reference.with_tag(version_tag(image.version))
    name = f"{target.registry}/{target.repository}"
    parts, contents = _read_files(image)
    with RegistryClient(target, access, progress=progress) as client:
        _require_free(client, target, image, move_tag=move_tag)
        layer = Descriptor(SIF_LAYER, image.digest, image.size, {TITLE: f"{image.name}_{image.version}.sif"})
        uploaded = _push_layer(client, layer, image)
        attached = [
            replace(client.push_bytes(ATTACHMENT_TYPES[name], content), annotations={TITLE: name})
            for name, content in contents.items()
        ]
        manifest = _push_manifest(client, layer, parts, image)
        provenance = make_provenance(image, name, manifest.digest, parts.texts[RECIPE])
        attached.append(replace(client.push_bytes(PROVENANCE_TYPE, provenance), annotations={TITLE: PROVENANCE}))
        attach(client, manifest.descriptor, attached)
        if sign_key is not None:
            sign_in_registry(client, name, manifest.digest, provenance, sign_key)
        client.push_manifest(manifest.content, manifest.media_type, target.tag)
    return Pushed(target, manifest.digest, uploaded, [*contents, PROVENANCE])


def _push_layer(client: RegistryClient, layer: Descriptor, image: Image) -> bool:
    """Upload the SIF unless it is there. The registry compares its digest; only if it refuses it is read here too."""
    try:
        return client.push_blob(layer, image.path)
    except TransferError:
        verify_image(image)
        raise


def _read_files(image: Image) -> tuple[ImageParts, dict[str, bytes]]:
    """Read the files beside the image that travel with it. Raises ProfilesError."""
    contents: dict[str, bytes] = {}
    for name in ATTACHMENT_TYPES:
        limit = MAX_CORE_BYTES if name in CORE else MAX_ATTACHMENT_BYTES
        try:
            contents[name] = read_bytes(image.directory / name, limit, own=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ProfilesError(f"{error.filename} cannot be pushed: {error.strerror}") from error
    if missing := [name for name in (DESCRIPTION, RECIPE) if name not in contents]:
        raise ProfilesError(
            f"{image.directory} has no {missing[0]}, which an image needs elsewhere", hint="build the image again"
        )
    try:
        texts = {name: contents[name].decode() for name in CORE if name in contents}
    except UnicodeDecodeError as error:
        raise ProfilesError(f"a file in {image.directory} is not UTF-8 text") from error
    others = {
        name: Descriptor(ATTACHMENT_TYPES[name], bytes_digest(content), len(content))
        for name, content in contents.items()
        if name not in CORE
    }
    return ImageParts(texts, others), contents


def _require_free(client: RegistryClient, target: ImageReference, image: Image, *, move_tag: bool) -> None:
    """Raise ImageExistsError if the tag names something else than this image."""
    there = client.find_manifest(target.tag)
    if there is None or move_tag:
        return
    try:
        same = read_artifact(there, str(target)).layer.digest == image.digest
    except TransferError:
        same = False
    if not same:
        raise ImageExistsError(
            f"{target} is another image already", hint="push to another tag; --move-tag makes this tag name the new one"
        )


def _push_manifest(client: RegistryClient, layer: Descriptor, parts: ImageParts, image: Image) -> StoredManifest:
    """Store configuration and manifest. A registry that refuses Apptainer's type of configuration gets a plain one."""
    content = parts.as_config()
    refusal: TransferError | None = None
    for media_type in (SIF_CONFIG, PLAIN_CONFIG):
        try:
            config = client.push_bytes(media_type, content)
            manifest = write_manifest(Artifact(layer, config), _annotations(image))
            digest = client.push_manifest(manifest, OCI_MANIFEST).digest
            return StoredManifest(manifest, OCI_MANIFEST, digest)
        except RegistryRefusedError:
            raise
        except TransferError as error:
            refusal = refusal or error
    assert refusal is not None  # both types were refused
    raise refusal


def _annotations(image: Image) -> dict[str, str]:
    described = {"org.opencontainers.image.description": image.profile.description}
    return {
        TITLE: image.name,
        "org.opencontainers.image.version": image.version,
        "org.opencontainers.image.created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(image.created)),
        **({key: text for key, text in described.items() if text}),
    }
