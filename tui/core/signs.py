"""Signs beside the text: Unicode, or ASCII where the terminal may lack the glyphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Signs:
    """The characters that the interface draws beside words; each has one cell."""

    cursor: str
    mark: str
    full: str
    empty: str
    cut: str
    up: str
    down: str


UNICODE = Signs(cursor=">", mark="●", full="█", empty="░", cut="…", up="▲", down="▼")
ASCII = Signs(cursor=">", mark="*", full="#", empty="-", cut="~", up="^", down="v")


def takes_unicode(environment: Mapping[str, str]) -> bool:
    """Whether the locale is UTF-8 (LC_ALL, LC_CTYPE, LANG in this order) and the terminal has more than ASCII glyphs.

    The Linux console and dumb terminals lack blocks and most other signs in any locale.
    """
    if environment.get("TERM", "") in {"", "dumb", "linux"}:
        return False
    locale = next((environment[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(name)), "")
    return "UTF8" in locale.upper().replace("-", "")


def draw_bar(fraction: float, width: int, signs: Signs) -> str:
    """Draw a bar of `width` cells. More than nothing shows at least one full cell, less than all one empty cell."""
    share = min(1.0, max(0.0, fraction))
    full = round(share * width)
    if 0.0 < share < 1.0:
        full = min(width - 1, max(1, full))
    return signs.full * full + signs.empty * (width - full)
