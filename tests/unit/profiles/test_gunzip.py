"""The program that decompresses layers: members in a row, zeros at the end, and damage."""

from __future__ import annotations

import gzip
import os
from typing import TYPE_CHECKING

import pytest

from profiles.oci.gunzip import MOST_BYTES, READ_BYTES, gunzip

if TYPE_CHECKING:
    from pathlib import Path

RANDOM = os.urandom(READ_BYTES + 5)
WHOLE = gzip.compress(RANDOM)
GOOD = {
    "nothing": (b"", b""),
    "one member": (WHOLE, RANDOM),
    "members": (gzip.compress(b"a") + WHOLE + gzip.compress(b"") + gzip.compress(b"b"), b"a" + RANDOM + b"b"),
    "zeros at the end": (gzip.compress(b"a") + bytes(2 * READ_BYTES), b"a"),
    "much from little": (gzip.compress(bytes(9 * MOST_BYTES)), bytes(9 * MOST_BYTES)),
    "exactly as much as is written at once": (gzip.compress(bytes(MOST_BYTES)), bytes(MOST_BYTES)),
}
BAD = {
    "cut off": (WHOLE[:-9], "it ends too early"),
    "without its sum": (WHOLE[:-1], "it ends too early"),
    "one byte changed": (WHOLE[:-6] + bytes([WHOLE[-6] ^ 1]) + WHOLE[-5:], "data check"),
    "no gzip": (b"plain text", "header check"),
    "something behind it": (WHOLE + b"rest", "header check"),
}


def decompressed(content: bytes, tmp_path: Path) -> tuple[str, bytes]:
    (tmp_path / "in").write_bytes(content)
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
        problem = gunzip(source.fileno(), target.fileno())
    return problem, (tmp_path / "out").read_bytes()


@pytest.mark.parametrize("case", GOOD)
def test_content_is_complete(case: str, tmp_path: Path) -> None:
    content, expected = GOOD[case]
    assert decompressed(content, tmp_path) == ("", expected)


@pytest.mark.parametrize("case", BAD)
def test_damage_is_told(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    assert message in decompressed(content, tmp_path)[0]
