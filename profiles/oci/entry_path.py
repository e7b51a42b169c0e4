"""The path of an entry of a layer, checked: relative, plain, and short enough for every program that reads the tree."""

from __future__ import annotations

from profiles.errors import LayerInvalidError
from profiles.oci.unpack_limits import MAX_DEPTH, MAX_LINK_BYTES, MAX_NAME_BYTES, MAX_PATH_BYTES

WHITEOUT_BYTES = b".wh."
"""The beginning of the name of an empty file that deletes what has the rest of the name in the layers below."""
OPAQUE_NAME = b".wh..wh..opq"
"""The name of an empty file that deletes all that its folder has in the layers below."""


def entry_path(name: bytes) -> bytes:
    """Return the path relative to the root of the image, without `.` and empty parts; empty for the root itself.

    A leading slash means the root of the image. Raises LayerInvalidError.
    """
    if b"\0" in name:
        raise LayerInvalidError("its name has a NUL byte", entry=name)
    parts = [part for part in name.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise LayerInvalidError("its name has `..`, which could lead out of the image", entry=name)
    if len(name) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH or any(len(part) > MAX_NAME_BYTES for part in parts):
        raise LayerInvalidError(
            f"its name is too long: at most {MAX_PATH_BYTES} bytes, {MAX_DEPTH} parts of {MAX_NAME_BYTES} bytes",
            entry=name[:200],
        )
    return b"/".join(parts)


def hidden_name(name: bytes, path: bytes) -> bytes:
    """Return the name that the whiteout `name` deletes. Raises LayerInvalidError for a reserved or impossible one."""
    hidden = name.removeprefix(WHITEOUT_BYTES)
    if hidden in {b"", b".", b".."} or hidden.startswith(WHITEOUT_BYTES):
        raise LayerInvalidError("it is a whiteout of nothing that can be deleted", entry=path)
    return hidden


def link_target(target: bytes, path: bytes) -> bytes:
    """Return the target of a symbolic link. Raises LayerInvalidError if no link can have it."""
    if not target or b"\0" in target or len(target) > MAX_LINK_BYTES:
        raise LayerInvalidError("its target is empty, too long, or has a NUL byte", entry=path)
    return target


def show_entry(name: bytes) -> str:
    """Return the name of an entry for a message, without control characters."""
    return repr(name[:200])[1:]
