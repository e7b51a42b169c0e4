"""A client of one repository of an OCI registry (OCI distribution specification 1.1).

Nothing that a registry sends is trusted: answers are bounded, and a blob or manifest counts only with the size and the
digest that were asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from profiles.errors import NotInRegistryError, TransferError
from profiles.oci.descriptor import (
    MANIFEST_TYPES,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    Descriptor,
    StoredManifest,
    bytes_digest,
)
from profiles.oci.reference import DIGEST_PATTERN
from profiles.oci.registry_access import RegistryAccess
from profiles.oci.registry_download import Download
from profiles.oci.registry_http import Interrupted, RegistryHttp, read_answer
from profiles.oci.registry_upload import OCTETS, Upload, with_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from profiles.oci.reference import ImageReference

Answer = TypeVar("Answer")

TransferCallback = Callable[[int, int], None]
"""Called during a transfer, with the bytes of the blob that are done, and all its bytes."""


@dataclass(frozen=True, slots=True)
class PushedManifest:
    """A stored manifest."""

    digest: str
    subject: str
    """The digest that the registry itself has linked it to; empty if it keeps no referrers."""


class RegistryClient:
    """A client of the repository that `reference` names. As a context manager, it closes its connections.

    Every method raises NotInRegistryError, RegistryRefusedError for a missing or insufficient login, or TransferError.
    """

    def __init__(
        self,
        reference: ImageReference,
        access: RegistryAccess | None = None,
        *,
        progress: TransferCallback = lambda _done, _total: None,
    ) -> None:
        self._http = RegistryHttp(reference, access or RegistryAccess())
        self._progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def manifest(self, target: str, media_types: Sequence[str] = MANIFEST_TYPES) -> StoredManifest:
        """Return the manifest or index with a tag or digest, as one of `media_types`."""

        def ask() -> StoredManifest:
            with self._http.request("GET", f"manifests/{target}", headers={"Accept": ", ".join(media_types)}) as answer:
                content = read_answer(answer, MAX_MANIFEST_BYTES)
                media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
                return self._check_manifest(
                    target, content, media_type, answer.headers.get("Docker-Content-Digest", "")
                )

        found = self._retry(ask)
        if found.media_type not in media_types:
            raise TransferError(
                f"{self._http.reference} is of the type {found.media_type[:100]!r}, which Berth does not read"
            )
        return found

    def find_manifest(self, target: str, media_types: Sequence[str] = MANIFEST_TYPES) -> StoredManifest | None:
        """Return the manifest with a tag or digest; None if there is none."""
        try:
            return self.manifest(target, media_types)
        except NotInRegistryError:
            return None

    def fetch_blob(self, descriptor: Descriptor, into: Path) -> None:
        """Write a blob to the new file `into`, mode 0600. An interrupted transfer continues where it was.

        After an error or an interruption, the file is not there. Raises OSError if it cannot be written.
        """
        descriptor_number = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor_number, "wb", buffering=0) as file:
                Download(self._http, descriptor, file, self._progress).run()
        except BaseException:
            into.unlink(missing_ok=True)
            raise

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return a small blob of at most `limit` bytes."""
        if descriptor.size > limit:
            raise TransferError(f"{descriptor.digest} has {descriptor.size} bytes, where at most {limit} are read")

        def ask() -> bytes:
            with self._http.request("GET", f"blobs/{descriptor.digest}") as answer:
                return read_answer(answer, descriptor.size)

        content = self._retry(ask)
        if len(content) != descriptor.size or bytes_digest(content) != descriptor.digest:
            raise TransferError(f"{self._http.reference.registry} sent other bytes than those of {descriptor.digest}")
        return content

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the repository has a blob."""

        def ask() -> bool:
            with self._http.request("HEAD", f"blobs/{descriptor.digest}", expect=(200, 404)) as answer:
                return answer.status_code == 200

        return self._retry(ask)

    def push_blob(self, descriptor: Descriptor, source: Path) -> bool:
        """Upload the file `source` in pieces unless the repository has it. Interrupted, it continues where it was.

        Return whether anything was uploaded. Raises OSError if the file cannot be read.
        """
        if self.has_blob(descriptor):
            return False
        with source.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != descriptor.size:
                raise TransferError(f"{source} has changed: it must have {descriptor.size} bytes")
            Upload(self._http, descriptor, file.fileno(), self._progress, lambda: self.has_blob(descriptor)).run()
        return True

    def push_bytes(self, media_type: str, content: bytes) -> Descriptor:
        """Upload a small blob unless the repository has it, and return its descriptor."""
        descriptor = Descriptor(media_type, bytes_digest(content), len(content))

        def ask() -> None:
            with self._http.request("POST", "blobs/uploads/", expect=(202,)) as answer:
                where = self._http.location(answer)
            address = with_digest(where, descriptor.digest)
            with self._http.request("PUT", address, body=content, expect=(201,), headers=OCTETS):
                pass

        if not self.has_blob(descriptor):
            self._retry(ask)
        return descriptor

    def push_manifest(self, content: bytes, media_type: str, tag: str = "") -> PushedManifest:
        """Store a manifest under `tag`, or only under its digest. Every blob that it names must be there already."""
        digest = bytes_digest(content)

        def ask() -> PushedManifest:
            headers = {"Content-Type": media_type}
            with self._http.request(
                "PUT", f"manifests/{tag or digest}", headers=headers, body=content, expect=(201,)
            ) as answer:
                kept = answer.headers.get("Docker-Content-Digest", digest)
                if kept != digest:
                    raise TransferError(f"{self._http.reference.registry} has stored another manifest than it was sent")
                return PushedManifest(digest, answer.headers.get("OCI-Subject", ""))

        return self._retry(ask)

    def referrers(self, digest: str) -> StoredManifest | None:
        """Return the registry's own index of the manifests about `digest`; None if it keeps none (before 1.1)."""

        def ask() -> StoredManifest | None:
            with self._http.request("GET", f"referrers/{digest}", expect=(200, 404, 405)) as answer:
                content = read_answer(answer, MAX_MANIFEST_BYTES)
                if answer.status_code != 200:
                    return None
                return StoredManifest(content, OCI_INDEX, bytes_digest(content))

        return self._retry(ask)

    def _check_manifest(self, target: str, content: bytes, media_type: str, header: str) -> StoredManifest:
        digest = bytes_digest(content)
        if DIGEST_PATTERN.fullmatch(target) and target != digest:
            raise TransferError(f"{self._http.reference.registry} sent another manifest than {target}")
        if DIGEST_PATTERN.fullmatch(header) and header != digest:
            raise TransferError(f"{self._http.reference.registry} sent a damaged manifest: its digest is not {header}")
        return StoredManifest(content, media_type, digest)

    def _retry(self, ask: Callable[[], Answer]) -> Answer:
        """Do something small, again after each interruption."""
        retries = self._http.retries
        while True:
            try:
                return ask()
            except Interrupted as error:
                retries.wait(error)
