"""Decompress gzip from standard input to standard output, as a program of its own: `python -I -S gunzip.py`.

zlib takes two thirds of the time of gzip(1). A layer may be of several gzip members, one after the other, with zeros at
the end. A problem is one line on standard error, and exit code 1. The standard library alone, and little of it, since
each layer starts this.
"""

from __future__ import annotations

import os
import sys
import zlib

READ_BYTES = 1 << 18
MOST_BYTES = 1 << 20
"""Bytes that are decompressed before they are written."""
_GZIP_ONLY = 31


def gunzip(source: int, target: int) -> str:
    """Decompress from one descriptor to another, and return the problem; empty if there is none."""
    member, is_begun = zlib.decompressobj(_GZIP_ONLY), False
    while piece := os.read(source, READ_BYTES):
        is_full = False
        while piece or is_full:
            if not is_begun and not (piece := piece.lstrip(b"\0")):
                break
            is_begun = True
            try:
                content = member.decompress(piece, MOST_BYTES)
            except zlib.error as error:
                return str(error)
            _write(target, content)
            piece, is_full = member.unconsumed_tail, len(content) == MOST_BYTES  # zlib may hold more
            if member.eof:
                piece, member, is_begun, is_full = member.unused_data, zlib.decompressobj(_GZIP_ONLY), False, False
    return "it ends too early" if is_begun else ""


def _write(target: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(target, rest) :]


if __name__ == "__main__":
    if problem := gunzip(0, 1):
        print(problem, file=sys.stderr)
        raise SystemExit(1)
