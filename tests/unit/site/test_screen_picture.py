"""A picture of a screen has its text, colours and columns, and nothing else."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pyte

from tests.site.screen_picture import COLUMN, DEFAULT_COLORS, MARGIN, screen_svg

SVG = "{http://www.w3.org/2000/svg}"


def picture_of(output: str, *, columns: int = 20, lines: int = 3) -> ET.Element:
    screen = pyte.Screen(columns, lines)
    pyte.Stream(screen).feed(output)
    return ET.fromstring(screen_svg(screen, "A <title>"))  # noqa: S314 - our own text


def test_text_is_at_its_column_in_its_colour() -> None:
    root = picture_of("plain \x1b[38;2;255;0;16;1mred <b>\x1b[0m\r\n\r\n   two  end")
    spans = {span.text: span.attrib for span in root.iter(f"{SVG}tspan")}
    assert list(spans) == ["plain", "red <b>", "two", "end"]
    assert spans["plain"] == {"x": str(MARGIN), "fill": DEFAULT_COLORS["fg"]}
    assert spans["red <b>"] == {"x": f"{MARGIN + 6 * COLUMN:.1f}", "fill": "#ff0010", "font-weight": "bold"}
    assert spans["end"]["x"] == f"{MARGIN + 8 * COLUMN:.1f}"
    assert len(list(root.iter(f"{SVG}text"))) == 2
    assert root.findtext(f"{SVG}title") == "A <title>"


def test_usual_background_is_that_of_the_picture_and_others_are_drawn() -> None:
    root = picture_of("\x1b[48;2;1;2;3mab\x1b[0m\x1b[7mcd\x1b[0m")
    behind, first, second = root.iter(f"{SVG}rect")
    assert behind.get("fill") == DEFAULT_COLORS["bg"]
    assert (first.get("fill"), first.get("width")) == ("#010203", f"{2 * COLUMN:.1f}")
    assert (second.get("fill"), second.get("x")) == (DEFAULT_COLORS["fg"], f"{MARGIN + 2 * COLUMN:.1f}")
    assert {span.text: span.get("fill") for span in root.iter(f"{SVG}tspan")}["cd"] == DEFAULT_COLORS["bg"]
