"""Follow the log of the jobs of a session."""

_OVERLAP_CHARS = 1024
"""Characters that must match to find the end of the last read."""


def added(seen: str, text: str) -> str:
    """Return the text that a later tail `text` of a log has after `seen`; all of it if the log was replaced."""
    if text.startswith(seen):
        return text[len(seen) :]
    last = seen[-_OVERLAP_CHARS:]
    position = text.rfind(last)
    return text if position < 0 else text[position + len(last) :]
