"""The uncompressed bytes of a layer, counted, bounded and hashed while they are read.

gunzip.py and zstd(1) decompress beside the process that writes the files, which takes half the time on two cores.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from enum import StrEnum
from typing import TYPE_CHECKING

from profiles.errors import LayerInvalidError, ProfilesError
from profiles.oci import gunzip

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from profiles.oci.unpack_limits import UnpackLimits

PIECE_BYTES = 1 << 20
"""Bytes of one read(2), and of the pipe from the program that decompresses."""
STOP_TIMEOUT_S = 10.0


class Compression(StrEnum):
    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


MAGIC_BYTES = 4
_MAGIC = {b"\x1f\x8b": Compression.GZIP, b"\x28\xb5\x2f\xfd": Compression.ZSTD}


def detect_compression(begin: bytes) -> Compression:
    """Return how content is compressed that begins with these bytes, of which MAGIC_BYTES are enough."""
    return next((kind for magic, kind in _MAGIC.items() if begin.startswith(magic)), Compression.NONE)


class LayerStream:
    """The content of the layer in `file`, as a ByteStream. A context manager: it ends the program that decompresses.

    `unpacked_before` is what earlier layers of the image had. All methods raise LayerInvalidError.
    """

    def __init__(self, file: Path, compression: Compression, limits: UnpackLimits, unpacked_before: int = 0) -> None:
        self.position = 0
        """Bytes that were handed out or skipped."""
        self.unpacked = 0
        """Bytes that were read."""
        self._limits = limits
        self._before = unpacked_before
        self._hash = hashlib.sha256()
        self._piece = memoryview(b"")
        self._at = 0
        with file.open("rb") as source:
            self._size = os.fstat(source.fileno()).st_size
            self._process = None if compression is Compression.NONE else _decompressor(compression, source.fileno())
            self._descriptor = os.dup(source.fileno()) if self._process is None else _output(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is None:
            os.close(self._descriptor)
            return
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=STOP_TIMEOUT_S)

    def read_exactly(self, count: int) -> bytes:
        """Return the next bytes; fewer only at the end."""
        if self._at + count <= len(self._piece):
            found = bytes(self._piece[self._at : self._at + count])
            self._at += count
            self.position += count
            return found
        parts = []
        while count and (part := self.read_some(count)):
            parts.append(bytes(part))
            count -= len(part)
        return b"".join(parts)

    def read_some(self, most: int) -> memoryview:
        """Return from 1 to `most` of the next bytes, valid until the next call; none at the end."""
        if self._at == len(self._piece) and not self._fill():
            return memoryview(b"")
        part = self._piece[self._at : self._at + most]
        self._at += len(part)
        self.position += len(part)
        return part

    def skip(self, count: int) -> None:
        """Pass over the next bytes, or to the end if there are fewer."""
        while count and (part := self.read_some(count)):
            count -= len(part)

    def finish(self) -> str:
        """Read the rest, and return the digest of all the uncompressed bytes."""
        while self._fill():
            pass
        if self._process is not None:
            complaint = self._process.communicate(timeout=STOP_TIMEOUT_S)[1]
            if self._process.returncode != 0:
                said = complaint.decode(errors="replace").strip().replace("\n", "; ")[-200:]
                raise LayerInvalidError(f"it cannot be decompressed, so it is damaged or cut off: {said}")
        return f"sha256:{self._hash.hexdigest()}"

    def _fill(self) -> bool:
        piece = os.read(self._descriptor, PIECE_BYTES)
        self._piece, self._at = memoryview(piece), 0
        self.unpacked += len(piece)
        self._hash.update(piece)
        limits = self._limits
        if self._before + self.unpacked > limits.unpacked_bytes:
            raise LayerInvalidError(f"the image is larger than {limits.unpacked_bytes >> 20} MiB, the most for a base")
        if self.unpacked > limits.ratio_free_bytes and self.unpacked > limits.ratio * self._size:
            raise LayerInvalidError(
                f"it grows to more than {limits.ratio} times its {self._size} bytes, as content does that is made to "
                "fill a disk"
            )
        return bool(piece)


def _decompressor(compression: Compression, source: int) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-I", "-S", gunzip.__file__]
    if compression is Compression.ZSTD:
        if shutil.which("zstd") is None:
            raise ProfilesError("a layer is compressed with zstd, which is not installed", hint="in Debian: zstd")
        argv = ["zstd", "-q", "-d", "-c"]
    return subprocess.Popen(argv, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)


def _output(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None  # for the type checker: Popen has created it
    with contextlib.suppress(OSError):  # pipes may be limited to their usual size: slower, and no more
        fcntl.fcntl(process.stdout.fileno(), fcntl.F_SETPIPE_SZ, PIECE_BYTES)
    return process.stdout.fileno()
