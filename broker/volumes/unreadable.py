"""Report the files that a copy cannot read, all together. A copy that silently lacks some would be no copy.

As root of a user namespace a process reads all files of its user, with any mode. A file server does not know
namespaces: over NFS, a mode such as 000 holds for the files' owner too.

The standard library alone: the copy of a running session runs this in its job (docs/reference/session-job.md).
"""

from __future__ import annotations

import errno

MAX_NAMED = 3
MAX_NAME_CHARACTERS = 50
"""Limit for the end of a path in the message; the job's answer has 300 characters (session.sh)."""


class UnreadableFilesError(PermissionError):
    """Some files cannot be read. The text names the first ones and the remedy."""


class UnreadableFiles:
    """The files that could not be read so far."""

    def __init__(self) -> None:
        self._named: dict[bytes, str] = {}
        self._count = 0

    def add(self, path: bytes, *, is_folder: bool = False) -> None:
        """Note a file or folder by its path relative to the volume's root, once for each time that it is met."""
        if path in self._named:
            return
        self._count += 1
        if len(self._named) < MAX_NAMED:
            self._named[path] = "chmod u+rx" if is_folder else "chmod u+r"

    def refuse(self) -> None:
        """Raise UnreadableFilesError if there are any."""
        if not self._count:
            return
        names = ", ".join(printable_path_end(path) for path in self._named)
        more = self._count - len(self._named)
        what = f"{names} and {more} more" if more else names
        remedies = " or ".join(f"`{remedy}`" for remedy in sorted({*self._named.values()}))
        words = f"permission denied: cannot read {what}; run {remedies} on them, or remove them"
        raise UnreadableFilesError(errno.EACCES, words)


def printable_path_end(path: bytes) -> str:
    """Return the end of a path as printable text of at most MAX_NAME_CHARACTERS."""
    text = path.decode(errors="backslashreplace")
    text = "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)
    return text if len(text) <= MAX_NAME_CHARACTERS else f"…{text[1 - MAX_NAME_CHARACTERS :]}"
