"""Disk space of a session's parts, and of all layers of a user."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from broker.volumes import record
from broker.volumes.layers import extent

if TYPE_CHECKING:
    from broker.volumes.record import Record
    from broker.volumes.storage import Storage

Answer = dict[str, Any]


def size(storage: Storage, session_id: str) -> Answer:
    """How much disk space a session's volumes and snapshots take: what each alone has, and what it consists of."""
    found = record.load(storage.session(session_id))
    others = set[str]()
    for other_id, other in storage.records():
        if other_id != session_id:
            others |= other.named_layers()
    parts = _parts(found)
    lines = []
    for what, layers in parts.items():
        elsewhere = others.union(*(named for name, named in parts.items() if name != what))
        seen: set[tuple[int, int]] = set()
        for layer in sorted(elsewhere):
            _extent(storage, layer, seen)
        own = sum(_extent(storage, layer, seen)[0] for layer in sorted(layers - elsewhere))
        all_seen: set[tuple[int, int]] = set()
        totals = [_extent(storage, layer, all_seen) for layer in sorted(layers)]
        total, files = sum(each[0] for each in totals), sum(each[1] for each in totals)
        lines.append({"what": what, "own": own, "total": total, "files": files})
    once: set[tuple[int, int]] = set()
    total = sum(_extent(storage, layer, once)[0] for layer in sorted(found.named_layers()))
    room = os.statvfs(storage.root)
    return {"lines": lines, "bytes": total, "free": room.f_bavail * room.f_frsize}


def usage(storage: Storage) -> Answer:
    """How many bytes of disk all layers of a user take, those of deleted sessions that are kept included."""
    seen: set[tuple[int, int]] = set()
    layers = storage.layers.all() if storage.layers.root.is_dir() else []  # of one who has never had a session
    return {"bytes": sum(_extent(storage, layer, seen)[0] for layer in layers)}


def _parts(found: Record) -> dict[str, set[str]]:
    """The layers of each part of a session, by the part's name."""
    parts = {name: {*volume.layers, volume.top} for name, volume in (("home", found.home), ("system", found.system))}
    return parts | {f"snapshot {each.number}": {*each.home, *each.system} for each in found.snapshots}


def _extent(storage: Storage, layer: str, seen: set[tuple[int, int]]) -> tuple[int, int]:
    path = storage.layers.path(layer)
    if not path.exists():
        return 0, 0
    found = extent(path, seen)
    return found.bytes, found.files
