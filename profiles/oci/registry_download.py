"""The download of one blob: its size and digest are checked, and an interrupted transfer continues where it was."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from profiles.errors import TransferError
from profiles.oci.registry_http import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

    import httpx

    from profiles.oci.descriptor import Descriptor
    from profiles.oci.registry_http import RegistryHttp

SLOWEST_BYTES = 2**16
"""Bytes that a transfer must bring within `RegistryAccess.slow_s`; a slower sender only holds the connection."""
PROGRESS_BYTES = 2**20
"""Bytes of a transfer after which the tries are counted again."""


class Download:
    """One blob, and the empty file for it."""

    def __init__(
        self,
        http: RegistryHttp,
        descriptor: Descriptor,
        file: FileIO,
        progress: Callable[[int, int], None],
    ) -> None:
        self._http = http
        self._blob = descriptor
        self._file = file
        self._progress = progress
        self._done = 0
        self._hash = hashlib.sha256()

    def run(self) -> None:
        """Return when the file has the blob. Raises TransferError, OSError."""
        retries = self._http.retries
        counted = 0
        while self._done < self._blob.size:
            try:
                self._transfer()
            except Interrupted as error:
                if self._done - counted >= PROGRESS_BYTES:
                    counted = self._done
                    retries.reset()
                retries.wait(error)
        if f"sha256:{self._hash.hexdigest()}" != self._blob.digest:
            raise TransferError(
                f"{self._http.reference.registry} sent other bytes than those of {self._blob.digest}",
                hint="the image was damaged in the registry or on its way; nothing was kept",
            )

    def _transfer(self) -> None:
        """Add what one answer has. Raises Interrupted if it ends early."""
        begin = self._done
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        with self._http.request("GET", f"blobs/{self._blob.digest}", headers=headers, expect=(200, 206)) as answer:
            if begin and answer.status_code == 200:
                self._restart()  # it does not do ranges
            elif begin:
                self._check_range(answer, begin)
            self._receive(answer)
        if self._done < self._blob.size:
            raise Interrupted(
                f"{self._http.reference.registry} sent {self._done} of {self._blob.size} bytes", hint="try again later"
            )

    def _receive(self, answer: httpx.Response) -> None:
        mark, marked = time.monotonic(), self._done
        for piece in answer.iter_raw():  # as they come: a size would hold back, and lose, the last ones
            if self._done + len(piece) > self._blob.size:
                raise TransferError(
                    f"{self._http.reference.registry} sent more than the {self._blob.size} bytes of {self._blob.digest}"
                )
            self._file.write(piece)
            self._hash.update(piece)
            self._done += len(piece)
            self._progress(self._done, self._blob.size)
            if time.monotonic() - mark > self._http.access.slow_s:
                if self._done - marked < SLOWEST_BYTES:
                    raise TransferError(
                        f"{self._http.reference.registry} is too slow: {self._done} of {self._blob.size} bytes came"
                    )
                mark, marked = time.monotonic(), self._done

    def _check_range(self, answer: httpx.Response, begin: int) -> None:
        if not answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            raise TransferError(f"{self._http.reference.registry} sent another part of the blob than the one asked for")

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._done, self._hash = 0, hashlib.sha256()
