"""The pictures of `berth tui` are on the pages, small, of text only, and show what their script made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.site.deploy import CHECKOUT
from tests.site.tui_pictures import PICTURES

if TYPE_CHECKING:
    from tests.site.tui_pictures import TuiPicture

LARGEST_BYTES = 60_000
GUIDE = CHECKOUT / "docs/howto/tui.md"
ELEMENTS = {"svg", "title", "rect", "g", "text", "tspan"}
SVG = "{http://www.w3.org/2000/svg}"


def read_picture(picture: TuiPicture) -> ET.Element:
    return ET.fromstring(picture.file.read_text(encoding="utf-8"))  # noqa: S314 - a file of this project


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_picture_is_small_and_of_text_only(picture: TuiPicture) -> None:
    content = picture.file.read_text(encoding="utf-8")
    assert len(content.encode()) < LARGEST_BYTES
    root = read_picture(picture)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == ELEMENTS
    assert root.findtext(f"{SVG}title") == picture.title
    assert set(re.findall(r"\w+://[^\s\"<]*|(?<![\w.])/[a-z]+/[\w./]*", content)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_picture_shows_its_screen(picture: TuiPicture) -> None:
    """A change of the script needs new pictures: `make picture`."""
    spans = [span.text or "" for span in read_picture(picture).iter(f"{SVG}tspan")]
    text = " ".join(" ".join(spans).split())
    assert all(shown in text for shown in picture.shown)


def test_pages_have_the_pictures() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    names = re.findall(r"\]\(\.\./images/(tui-[a-z]+)\.svg\)", guide)
    assert names == [picture.name for picture in PICTURES]
    assert f"](docs/images/{PICTURES[0].name}.svg)" in (CHECKOUT / "README.md").read_text(encoding="utf-8")
