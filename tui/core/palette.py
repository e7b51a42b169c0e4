"""The colours of the dark and the light theme, and their contrast as WCAG 2.2 defines it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

AA_CONTRAST = 4.5
"""WCAG 2.2, success criterion 1.4.3: text of normal size."""


class Tone(Enum):
    """The meaning of a text's colour; the text itself says the same in words."""

    PLAIN = "text"
    MUTED = "muted"
    GOOD = "good"
    ACTIVE = "active"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours as #RRGGBB."""

    dark: bool
    background: str
    panel: str
    """Background of titles, and of the status line."""
    cursor: str
    """Background of the chosen row."""
    cursor_text: str
    text: str
    muted: str
    good: str
    active: str
    warning: str
    error: str

    def color(self, tone: Tone) -> str:
        """Return the colour of a text on `background` or `panel`."""
        value = getattr(self, tone.value)
        assert isinstance(value, str)
        return value


DARK = Palette(
    dark=True,
    background="#101418",
    panel="#1c242c",
    cursor="#24507a",
    cursor_text="#ffffff",
    text="#e4e8ec",
    muted="#a3adb8",
    good="#7bd88f",
    active="#7cc7ff",
    warning="#f0c674",
    error="#ff8c8c",
)
LIGHT = Palette(
    dark=False,
    background="#ffffff",
    panel="#e8edf2",
    cursor="#bcd9f5",
    cursor_text="#000000",
    text="#1a1f24",
    muted="#4c5560",
    good="#0a5f28",
    active="#0a4f86",
    warning="#6e4600",
    error="#a3001b",
)


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21."""
    high, low = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    """Return the relative luminance of sRGB, as WCAG defines it."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
