"""Fit texts into cells of the terminal."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size


def fit_cells(text: str, width: int, cut: str) -> str:
    """Return the text in exactly `width` cells; the sign `cut` marks that a part is missing."""
    if text.isascii():
        return text.ljust(width) if len(text) <= width else text[: max(width - 1, 0)] + cut[:width]
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, max(width - 1, 0)) + cut[:width]
