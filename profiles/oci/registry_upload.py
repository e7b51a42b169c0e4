"""The upload of one blob in pieces: an interrupted transfer continues where the registry says that it was."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import httpx

from profiles.errors import TransferError
from profiles.oci.registry_http import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from profiles.oci.descriptor import Descriptor
    from profiles.oci.registry_http import RegistryHttp

CHUNK_BYTES = 64 * 2**20
"""Bytes of one request: below the limit that proxies in front of registries commonly have."""
MAX_CHUNK_BYTES = 2**30
"""The largest chunk that a registry may ask for."""
PIECE_BYTES = 2**20
OCTETS = {"Content-Type": "application/octet-stream"}
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,15})")


class Upload:
    """One blob, and the open file that has it."""

    def __init__(
        self,
        http: RegistryHttp,
        descriptor: Descriptor,
        file: int,
        progress: Callable[[int, int], None],
        is_there: Callable[[], bool],
    ) -> None:
        """`is_there` says whether the registry has the blob, for when the answer to the last request was lost."""
        self._http = http
        self._blob = descriptor
        self._file = file
        self._progress = progress
        self._is_there = is_there
        self._where = ""
        self._done = 0
        self._chunk = CHUNK_BYTES

    def run(self) -> None:
        """Return when the registry has the blob and has checked its digest. Raises TransferError, OSError."""
        retries = self._http.retries
        best = 0
        interrupted = False
        while True:
            try:
                if interrupted:
                    self._resume()
                if not self._where:
                    self._begin()
                while self._done < self._blob.size:
                    self._send_chunk()
                self._commit()
            except Interrupted as error:
                interrupted = True
                if self._done > best:
                    best = self._done
                    retries.reset()
                retries.wait(error)
            else:
                return

    def _begin(self) -> None:
        with self._http.request("POST", "blobs/uploads/", expect=(202,)) as answer:
            self._where, self._done = self._http.location(answer), 0
            least = answer.headers.get("OCI-Chunk-Min-Length", "")
            if least.isascii() and least.isdigit() and len(least) < 12:
                self._chunk = min(max(CHUNK_BYTES, int(least)), MAX_CHUNK_BYTES)

    def _send_chunk(self) -> None:
        begin, end = self._done, min(self._done + self._chunk, self._blob.size)
        headers = {**OCTETS, "Content-Length": str(end - begin), "Content-Range": f"{begin}-{end - 1}"}
        with self._http.request(
            "PATCH", self._where, headers=headers, body=lambda: self._pieces(begin, end), expect=(202, 204)
        ) as answer:
            self._where = self._http.location(answer)
            self._done = min(end, self._count_received(answer, end))
        if self._done <= begin:
            raise Interrupted(f"{self._http.reference.registry} keeps nothing of what is uploaded")
        self._progress(self._done, self._blob.size)

    def _pieces(self, begin: int, end: int) -> Iterator[bytes]:
        while begin < end:
            piece = os.pread(self._file, min(PIECE_BYTES, end - begin), begin)
            if not piece:
                raise TransferError("the image became shorter while it was uploaded")
            yield piece
            begin += len(piece)
            self._progress(begin, self._blob.size)

    def _resume(self) -> None:
        """Ask the registry how much it has. If it has forgotten the upload, begin again."""
        if not self._where:
            return
        try:
            with self._http.request("GET", self._where, expect=(204,)) as answer:
                self._done = min(self._count_received(answer, 0), self._blob.size)
                if answer.headers.get("Location"):
                    self._where = self._http.location(answer)
        except Interrupted:
            raise
        except TransferError:
            self._where = ""  # a new upload tells whether anything else is wrong

    def _count_received(self, answer: httpx.Response, otherwise: int) -> int:
        """Return how many bytes the registry has, as its header says; `otherwise` without a valid one."""
        found = _RANGE.fullmatch(answer.headers.get("Range", ""))
        return int(found[1]) + 1 if found and found[1] != "0" else otherwise

    def _commit(self) -> None:
        try:
            with self._http.request("PUT", with_digest(self._where, self._blob.digest), headers=OCTETS, expect=(201,)):
                pass
        except Interrupted:
            if not self._is_there():
                raise


def with_digest(where: str, digest: str) -> str:
    """Return the address that ends an upload."""
    return str(httpx.URL(where).copy_merge_params({"digest": digest}))
