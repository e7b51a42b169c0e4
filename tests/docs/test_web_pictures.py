"""The pictures of web access are on the pages, with texts for those who do not see them, and have a size for a page."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import pytest

from tests.site.deploy import CHECKOUT
from tests.site.web_pictures import HEIGHT, MAX_BYTES, PICTURES, WIDTH

if TYPE_CHECKING:
    from tests.site.web_pictures import WebPicture

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PAGES = ("README.md", "docs/howto/web.md")
MIN_TEXT = 20
"""Characters of a text that says what a picture shows."""


def read_chunks(content: bytes) -> dict[bytes, bytes]:
    """Return the last chunk of each kind of a PNG."""
    chunks, at = {}, len(SIGNATURE)
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        chunks[kind] = content[at + 8 : at + 8 + size]
        at += 12 + size
    return chunks


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_picture_is_small_and_carries_no_notes(picture: WebPicture) -> None:
    content = picture.file.read_bytes()
    assert content.startswith(SIGNATURE)
    assert len(content) < MAX_BYTES
    chunks = read_chunks(content)
    assert struct.unpack_from(">II", chunks[b"IHDR"]) == (WIDTH, HEIGHT)
    assert not chunks.keys() & {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"}


def test_pages_have_each_picture_with_a_text() -> None:
    text = "\n".join((CHECKOUT / page).read_text(encoding="utf-8") for page in PAGES)
    shown = {name: text for text, name in re.findall(r"!\[([^]]*)\]\([./a-z]*images/([a-z-]+)\.png\)", text)}
    assert shown.keys() == {picture.name for picture in PICTURES}
    assert all(len(words) >= MIN_TEXT for words in shown.values())
