"""The styles of the interface: from a palette, or with the terminal's own colours, or without colour."""

from __future__ import annotations

from rich.style import Style
from textual.theme import Theme

from tui.core.palette import DARK, LIGHT, Palette, Tone

THEME_DARK, THEME_LIGHT = "berth-dark", "berth-light"
THEME_ANSI_DARK, THEME_ANSI_LIGHT = "ansi-dark", "ansi-light"
"""Themes of Textual that use the terminal's own colours: for terminals with 16 colours, and for NO_COLOR."""

_ANSI_DARK = {Tone.GOOD: "green", Tone.ACTIVE: "cyan", Tone.WARNING: "yellow", Tone.ERROR: "red"}
_ANSI_LIGHT = {Tone.GOOD: "green", Tone.ACTIVE: "blue", Tone.WARNING: "magenta", Tone.ERROR: "red"}
"""Names of the terminal's colours; a text without one has the terminal's own."""


class ScreenStyles:
    """Styles for lines that a widget draws itself."""

    def __init__(self, palette: Palette | None, ansi: dict[Tone, str] | None = None) -> None:
        ansi = ansi or {}
        if palette is None:
            self._text = {tone: Style(color=ansi.get(tone)) for tone in Tone}
            self._panel = {tone: Style(color=ansi.get(tone), bold=True) for tone in Tone}
            self.cursor = Style(reverse=True)
        else:
            self._text = {tone: Style(color=palette.color(tone), bgcolor=palette.background) for tone in Tone}
            self._panel = {tone: Style(color=palette.color(tone), bgcolor=palette.panel) for tone in Tone}
            self.cursor = Style(color=palette.cursor_text, bgcolor=palette.cursor, bold=True)

    def style(self, tone: Tone) -> Style:
        """Return the style of a text in the list."""
        return self._text[tone]

    def panel(self, tone: Tone = Tone.PLAIN) -> Style:
        """Return the style of a text in titles and in the status line."""
        return self._panel[tone]


LOOKS = {
    THEME_DARK: ScreenStyles(DARK),
    THEME_LIGHT: ScreenStyles(LIGHT),
    THEME_ANSI_DARK: ScreenStyles(None, _ANSI_DARK),
    THEME_ANSI_LIGHT: ScreenStyles(None, _ANSI_LIGHT),
}
"""The look of each theme. The chosen row is in reverse video where the colours are the terminal's."""


def make_theme(name: str, palette: Palette) -> Theme:
    """Return Textual's theme for its own widgets, with the same colours."""
    return Theme(
        name=name,
        primary=palette.active,
        secondary=palette.active,
        accent=palette.active,
        warning=palette.warning,
        error=palette.error,
        success=palette.good,
        foreground=palette.text,
        background=palette.background,
        surface=palette.panel,
        panel=palette.panel,
        boost=palette.panel,
        dark=palette.dark,
        text_alpha=1.0,
        variables={
            "block-cursor-background": palette.cursor,
            "block-cursor-foreground": palette.cursor_text,
            "block-cursor-blurred-background": palette.cursor,
            "block-cursor-blurred-foreground": palette.cursor_text,
            "input-cursor-background": palette.text,
            "input-cursor-foreground": palette.background,
            "input-selection-background": palette.cursor,
            "input-selection-foreground": palette.cursor_text,
            "text-muted": palette.muted,
            "text-disabled": palette.muted,
            "foreground-muted": palette.muted,
            "foreground-disabled": palette.muted,
            "text-warning": palette.warning,
            "text-error": palette.error,
            "text-success": palette.good,
            "text-primary": palette.active,
            "text-secondary": palette.active,
            "text-accent": palette.active,
            "border": palette.active,
            "border-blurred": palette.muted,
            "scrollbar": palette.muted,
            "scrollbar-hover": palette.text,
            "scrollbar-active": palette.text,
            "scrollbar-background": palette.panel,
            "scrollbar-background-hover": palette.panel,
            "scrollbar-background-active": palette.panel,
            "scrollbar-corner-color": palette.panel,
        },
    )
