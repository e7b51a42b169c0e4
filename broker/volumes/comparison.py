"""Compare the contents of two stacks of layers, folder by folder, side by side.

The comparison reads a layer that both stacks have only at paths that another layer changes. So its cost grows with the
entries of the other layers. Folders are opened by descriptors: paths may be of any length, and folders of any depth.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from broker.volumes import progress
from broker.volumes.content import ACCESS_LISTS, attribute_names, drop_unknown_ids, same_content
from profiles.image.overlayfs import (
    EntryKind,
    LayerEntry,
    Marks,
    MergedFolder,
    OpenStack,
    is_overlay_attribute,
    open_trees,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from broker.volumes.image import ImageFiles
    from profiles.walk import Tree


class Difference(NamedTuple):
    """A path at which the two stacks differ."""

    change: str
    """`A` for added, `M` for modified, `D` for deleted."""
    path: str


@dataclass(frozen=True, slots=True)
class ComparisonDepth:
    """Depth of a comparison. Kind, mode, size, time of modification, link target and attributes are always compared."""

    seconds: bool = False
    """Whether a layer is packed, so that times are compared by whole seconds."""
    lists: bool = True
    """Whether access lists are compared, without their entries for other users and groups, which copies lose."""
    content: bool = False
    """Whether files that look the same are read."""


@contextmanager
def open_stacks(
    before: Sequence[Path], after: Sequence[Path], marks: tuple[Marks, Marks]
) -> Iterator[tuple[OpenStack, OpenStack]]:
    """Open two stacks of trees, oldest first. A tree of both stacks is opened once. Sessions may change the trees
    meanwhile.
    """
    paths = list(dict.fromkeys([*before, *after]))
    with open_trees(paths) as opened:
        trees = dict(zip(paths, opened, strict=True))
        stacks = [
            OpenStack([trees[path] for path in stack], mark, is_steady=False)
            for stack, mark in zip((before, after), marks, strict=True)
        ]
        yield stacks[0], stacks[1]


def compare_stacks(
    before: OpenStack, after: OpenStack, image: ImageFiles | None, depth: ComparisonDepth
) -> Iterator[Difference]:
    """Yield the differences in the order of a walk: a folder before its entries, names in the order of their bytes.

    Both stacks lie over `image`, if there is one. A folder that is deleted or replaced is one path; a new folder is
    yielded with everything in it. OSError if something cannot be read.
    """
    comparison = _Comparison(image, depth)
    under_way = [comparison.folder(*comparison.root(before, after))]
    while under_way:
        step = next(under_way[-1], None)
        if step is None:
            under_way.pop()
        elif isinstance(step, Difference):
            yield step
        else:
            under_way.append(comparison.folder(step.old, step.new))


class _Side(NamedTuple):
    """A folder as one of the two stacks shows it."""

    folder: MergedFolder | None
    """None if no layer has the folder."""
    image: str | None
    """The path of the image's folder that shows there, None if none does."""


class _Step(NamedTuple):
    """A folder that waits for its comparison."""

    old: _Side
    new: _Side


_NOTHING = _Side(None, None)
_IMAGE_ENTRY = "image"
"""The state of an entry that the image has and that no layer mentions."""
_State = LayerEntry | str | None


class _Comparison:
    def __init__(self, image: ImageFiles | None, depth: ComparisonDepth) -> None:
        self._image = image
        self._depth = depth

    def root(self, before: OpenStack, after: OpenStack) -> _Step:
        image = None if self._image is None else ""
        return _Step(_Side(before.root, image), _Side(after.root, image))

    def folder(self, old: _Side, new: _Side) -> Iterator[Difference | _Step]:
        """Yield the changes in one folder, each followed by the folder to enter."""
        for name in sorted(self._names(old, new)):
            progress.count(files=1)
            before, after = self._state(old, name), self._state(new, name)
            if (change := self._change(before, after)) is not None:
                yield Difference(change, _path(old, new, name, before, after))
            if after is not None:
                inner_old = self._inside(old, name, before) if self._is_folder(old, name, before) else _NOTHING
                if self._is_folder(new, name, after) and before is not after:
                    yield _Step(inner_old, self._inside(new, name, after))

    def _names(self, old: _Side, new: _Side) -> set[bytes]:
        """Read the names that may differ between the two sides."""
        shared = _trees_of(old) & _trees_of(new) if _marks_of(old) is _marks_of(new) else frozenset()
        names = set[bytes]()
        for side in (old, new):
            if side.folder is not None:
                names |= side.folder.names(without=shared)
        if self._image is not None and old.image != new.image:  # on one side only
            shown = old.image if old.image is not None else new.image
            assert shown is not None  # one is none, and the other is not
            names |= {os.fsencode(name) for name in self._image.inside(shown)}
        return names

    def _state(self, side: _Side, name: bytes) -> _State:
        found = side.folder.find(name) if side.folder is not None else None
        if found is not None:
            return None if found.kind is EntryKind.WHITEOUT else found
        return _IMAGE_ENTRY if self._of_image(side, name) is not None else None

    def _of_image(self, side: _Side, name: bytes) -> str | None:
        """Return the path that a name has in the image, if the image's folder shows and has it."""
        if side.image is None or self._image is None:
            return None
        path = _join_path(side.image, name)
        return path if self._image.has(path) else None

    def _is_folder(self, side: _Side, name: bytes, state: _State) -> bool:
        if isinstance(state, LayerEntry):
            return state.kind is EntryKind.DIRECTORY
        path = self._of_image(side, name) if state == _IMAGE_ENTRY else None
        return path is not None and self._image is not None and bool(self._image.inside(path))

    def _inside(self, side: _Side, name: bytes, state: _State) -> _Side:
        inside = side.folder.inside(name) if isinstance(state, LayerEntry) and side.folder is not None else None
        hides = inside is not None and inside.hides
        return _Side(inside, None if hides else self._of_image(side, name))

    def _change(self, before: _State, after: _State) -> str | None:
        if before is None or after is None:
            return None if before is after else "D" if after is None else "A"
        if isinstance(before, LayerEntry) and isinstance(after, LayerEntry):
            return "M" if self._differ(before, after) else None
        layered = before if isinstance(before, LayerEntry) else after
        # A folder of the image that a layer has too only holds what has changed.
        is_changed = isinstance(layered, LayerEntry) and layered.kind is not EntryKind.DIRECTORY
        return "M" if is_changed else None

    def _differ(self, old: LayerEntry, new: LayerEntry) -> bool:
        was, now = old.status, new.status
        if (was.st_dev, was.st_ino) == (now.st_dev, now.st_ino):
            return False
        if was.st_mode != now.st_mode:
            return True
        is_folder = old.kind is EntryKind.DIRECTORY  # whose size and times are its entries' business
        unit = 10**9 if self._depth.seconds else 1
        times = (was.st_mtime_ns // unit, now.st_mtime_ns // unit)
        if not is_folder and (times[0] != times[1] or (was.st_size, was.st_rdev) != (now.st_size, now.st_rdev)):
            return True
        try:
            return self._differ_inside(old, new)
        except (FileNotFoundError, NotADirectoryError):  # one has vanished since it was listed
            return True

    def _differ_inside(self, old: LayerEntry, new: LayerEntry) -> bool:
        if old.kind is EntryKind.SYMLINK:
            return _target(old) != _target(new)
        if old.kind is EntryKind.OTHER:
            return False
        if _attributes(old, self._depth) != _attributes(new, self._depth):
            return True
        return self._depth.content and old.kind is EntryKind.FILE and not _have_same_content(old, new)


def _trees_of(side: _Side) -> frozenset[Tree]:
    return frozenset() if side.folder is None else frozenset(folder.tree for _, folder in side.folder.folders)


def _marks_of(side: _Side) -> Marks | None:
    return None if side.folder is None else side.folder.stack.marks


def _path(old: _Side, new: _Side, name: bytes, before: _State, after: _State) -> str:
    for state in (after, before):
        if isinstance(state, LayerEntry):
            return state.path
    shown = new.image if after == _IMAGE_ENTRY else old.image
    assert shown is not None
    return _join_path(shown, name)


def _join_path(folder: str, name: bytes) -> str:
    return f"{folder}/{os.fsdecode(name)}" if folder else os.fsdecode(name)


def _target(found: LayerEntry) -> bytes:
    return os.readlink(found.name, dir_fd=found.folder.descriptor())


def _attributes(found: LayerEntry, depth: ComparisonDepth) -> dict[str, bytes | None]:
    """Return the attributes and access lists of a file or folder that a copy keeps; None for one that is unreadable."""
    path = found.folder.short_path(found.name)
    values: dict[str, bytes | None] = {}
    for name in attribute_names(path):
        is_list = name in ACCESS_LISTS
        is_kept = name.startswith("user.") or (is_list and depth.lists)
        if is_kept and not is_overlay_attribute(name, found.marks):
            try:
                value = os.getxattr(path, name, follow_symlinks=False)
                values[name] = drop_unknown_ids(value) if is_list else value
            except PermissionError:
                values[name] = None
    return values


def _have_same_content(old: LayerEntry, new: LayerEntry) -> bool:
    """Compare the bytes of two files of one size; what is a hole in both is not read."""
    with _open_entry(old) as one, _open_entry(new) as other:
        return same_content(one, other, old.status, new.status)


@contextmanager
def _open_entry(found: LayerEntry) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(found.name, flags, dir_fd=found.folder.descriptor())
    try:
        yield descriptor
    finally:
        os.close(descriptor)
