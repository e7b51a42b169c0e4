"""Find out which release of which distribution an image has: os-release(5), and what apt installs from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from profiles.inventory.model import OperatingSystem

if TYPE_CHECKING:
    from profiles.inventory.image_tree_reader import ImageTreeReader

MAX_SYSTEM_TEXT_BYTES = 1 << 20
_LINE = re.compile(r"^(ID|VERSION_ID|VERSION_CODENAME)=[\"']?([A-Za-z0-9._-]{1,80})[\"']?\s*$", re.MULTILINE)
_SID = re.compile(r"^(?:deb |Suites:).*\b(?:sid|unstable)\b", re.MULTILINE)


def read_system(reader: ImageTreeReader) -> OperatingSystem:
    """Return the distribution; empty texts for what the image does not say."""
    fields = dict(_LINE.findall(_text(reader, "etc/os-release") or _text(reader, "usr/lib/os-release")))
    suite = fields.get("VERSION_CODENAME", "")
    if fields.get("ID") == "debian" and not fields.get("VERSION_ID") and _is_sid(reader):
        suite = "sid"  # which has the codename of testing there
    return OperatingSystem(fields.get("ID", ""), fields.get("VERSION_ID", ""), suite)


def _is_sid(reader: ImageTreeReader) -> bool:
    folder = "etc/apt/sources.list.d"
    names = [name.decode("utf-8", "replace") for name in reader.names(folder)]
    places = ["etc/apt/sources.list", *(f"{folder}/{name}" for name in names if name.endswith((".list", ".sources")))]
    return any(_SID.search(_text(reader, place)) for place in places)


def _text(reader: ImageTreeReader, place: str) -> str:
    return (reader.read(place, MAX_SYSTEM_TEXT_BYTES) or b"").decode("utf-8", "replace")
