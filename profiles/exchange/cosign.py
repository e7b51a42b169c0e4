"""Signatures and attestations beside an image in a registry, where cosign(1) looks for them.

A signature is the artefact `sha256-<digest>.sig`, an attestation the artefact `sha256-<digest>.att`. What others have
put there stays.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from profiles.errors import TransferError
from profiles.exchange.provenance import PREDICATE_TYPE
from profiles.exchange.referrers import referrers_tag
from profiles.oci.descriptor import MAX_MANIFEST_BYTES, OCI_MANIFEST
from profiles.signature.statement import PAYLOAD_TYPE, encode_for_signature

if TYPE_CHECKING:
    from profiles.oci.registry_client import RegistryClient
    from profiles.signature.keys import PrivateSigningKey

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
DSSE = "application/vnd.dsse.envelope.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"


def sign_in_registry(client: RegistryClient, name: str, digest: str, provenance: bytes, key: PrivateSigningKey) -> None:
    """Sign the manifest with this digest, and its provenance, unless this key has. Raises TransferError.

    `name` is the image's name in the registry, without a tag.
    """
    payload = _payload(name, digest)
    signatures, attestations = (f"{referrers_tag(digest)}.{end}" for end in ("sig", "att"))
    content = client.push_bytes(SIMPLE_SIGNING, payload)
    signed = _layers(client, signatures)
    if any(each.get("digest") == content.digest and _is_by(each, payload, key) for each in signed):
        return
    envelope = client.push_bytes(DSSE, _envelope(provenance, key))
    noted = {"annotations": {SIGNATURE_ANNOTATION: "", "predicateType": PREDICATE_TYPE}}
    _push(client, attestations, [*_layers(client, attestations), envelope.as_json() | noted])
    noted = {"annotations": {SIGNATURE_ANNOTATION: base64.b64encode(key.sign(payload)).decode()}}
    _push(client, signatures, [*signed, content.as_json() | noted])


def _payload(name: str, digest: str) -> bytes:
    """Return the text that a signature is of ("simple signing" of containers/image)."""
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical, "optional": None}).encode()


def _envelope(statement: bytes, key: PrivateSigningKey) -> bytes:
    signature = base64.b64encode(key.sign(encode_for_signature(PAYLOAD_TYPE, statement))).decode()
    return json.dumps(
        {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(statement).decode(),
            "signatures": [{"keyid": key.public.key_id, "sig": signature}],
        }
    ).encode()


def _is_by(layer: dict[str, Any], payload: bytes, key: PrivateSigningKey) -> bool:
    annotations = layer.get("annotations")
    text = annotations.get(SIGNATURE_ANNOTATION) if isinstance(annotations, dict) else None
    try:
        return isinstance(text, str) and key.public.verifies(base64.b64decode(text), payload)
    except ValueError:
        return False


def _layers(client: RegistryClient, tag: str) -> list[dict[str, Any]]:
    """Return the layers of the artefact under a tag, as they are; none if there is no artefact."""
    there = client.find_manifest(tag, (OCI_MANIFEST,))
    layers = there.data.get("layers") if there else []
    if not isinstance(layers, list) or not all(isinstance(each, dict) for each in layers):
        raise TransferError(f"the signatures at {tag} are damaged", hint="remove this tag from the registry")
    return layers


def _push(client: RegistryClient, tag: str, layers: list[dict[str, Any]]) -> None:
    root = {"type": "layers", "diff_ids": [each.get("digest") for each in layers]}
    config = json.dumps({"architecture": "", "os": "", "config": {}, "rootfs": root}).encode()
    content = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": client.push_bytes(CONFIG, config).as_json(),
            "layers": layers,
        }
    ).encode()
    if len(content) > MAX_MANIFEST_BYTES:
        raise TransferError(f"too many signatures are at {tag}", hint="remove those that do not count any more")
    client.push_manifest(content, OCI_MANIFEST, tag)
