"""Files attached to an image in a registry: manifests that name it as their `subject` (OCI 1.1).

A registry without the referrers API, such as docker-registry 2.8, gets the index under the tag `sha256-<digest>`
instead, as the distribution specification says.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from profiles.errors import TransferError
from profiles.oci.descriptor import MAX_MANIFEST_BYTES, OCI_INDEX, OCI_MANIFEST, Descriptor, bytes_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiles.oci.registry_client import RegistryClient

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"


def attach(client: RegistryClient, subject: Descriptor, files: Sequence[Descriptor]) -> None:
    """Attach uploaded blobs to a manifest, each under its media type. Raises TransferError."""
    if not files:
        return
    empty = client.push_bytes(EMPTY_TYPE, b"{}")
    attached = []
    is_linked = True
    for file in files:
        content = _manifest(subject, file, empty)
        pushed = client.push_manifest(content, OCI_MANIFEST)
        is_linked = is_linked and pushed.subject == subject.digest
        attached.append(
            Descriptor(OCI_MANIFEST, pushed.digest, len(content), dict(file.annotations), artifact_type=file.media_type)
        )
    if not is_linked:
        _update_index(client, subject, attached)


def referrers_tag(digest: str) -> str:
    """Return the tag that stands for the referrers of a manifest."""
    return digest.replace(":", "-")


def list_referrers(client: RegistryClient, digest: str) -> list[Descriptor]:
    """Return the manifests that are attached to one. Raises TransferError."""
    index = client.referrers(digest) or client.find_manifest(referrers_tag(digest), (OCI_INDEX,))
    if index is None:
        return []
    listed = index.data.get("manifests")
    if not isinstance(listed, list):
        raise TransferError("the list of what is attached to the image is damaged")
    return [Descriptor.from_json(each) for each in listed]


def _manifest(subject: Descriptor, file: Descriptor, empty: Descriptor) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": file.media_type,
            "config": empty.as_json(),
            "layers": [file.as_json()],
            "subject": subject.as_json(),
            "annotations": dict(file.annotations),
        }
    ).encode()


def _update_index(client: RegistryClient, subject: Descriptor, attached: Sequence[Descriptor]) -> None:
    """Add to the index under the tag, and keep what others have attached."""
    tag = referrers_tag(subject.digest)
    before = client.find_manifest(tag, (OCI_INDEX,))
    listed = before.data.get("manifests") if before else []
    kept = [Descriptor.from_json(each) for each in listed] if isinstance(listed, list) else []
    new = {each.digest for each in attached}
    entries = [*(each for each in kept if each.digest not in new), *attached]
    content = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [each.as_json() for each in entries]}
    ).encode()
    if len(content) > MAX_MANIFEST_BYTES:
        raise TransferError(f"too much is attached to {subject.digest}", hint="remove what is not used any more")
    if before is None or before.digest != bytes_digest(content):
        client.push_manifest(content, OCI_INDEX, tag)
