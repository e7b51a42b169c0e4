"""Lays out trees as people have them: `trees_program.py sources|node-modules ROOT SCALE`.

SCALE is how many times as large as the smallest one that has everything.

Runs inside a session: the standard library only.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
from pathlib import Path

FOLDERS, FILES = 60, 600
PACKAGES, NESTED, STORED = 50, 3, 150
OWNER, NAMED_USER, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
"""Tags of entries of an access control list: acl(5), linux/posix_acl.h."""


def sources(root: Path, scale: int) -> None:
    """A tree of source files: some hundred bytes to some kilobytes, some of them programs and some links."""
    source = random.Random(1)  # noqa: S311 - it has to be the same each time
    for number in range(FILES * scale):
        folder = root / "src" / f"part{number % FOLDERS}" / ("deep/" * (number % 4))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"module{number}.c"
        path.write_text("".join(f"int v{line} = {source.random()};\n" for line in range(source.randrange(5, 120))))
        if number % 50 == 0:
            path.chmod(0o755)
            (folder / f"link{number}").symlink_to(path.name)


def node_modules(root: Path, scale: int) -> None:
    """Packages as pnpm and npm lay them out: small files, most linked to a store, packages in packages, `.bin`."""
    store, modules = root / "store", root / "node_modules"
    for folder in (store, modules / ".bin"):
        folder.mkdir(parents=True)
    for number in range(PACKAGES * scale):
        scope = f"@scope{number % 7}/" if number % 3 == 0 else ""
        path = modules / f"{scope}package{number}"
        for level in range(number % NESTED + 1):
            _package(path, store, number, level)
            path = path / "node_modules" / f"dependency{level}"
        (modules / ".bin" / f"tool{number}").symlink_to(f"../{scope}package{number}/cli.js")
    _give_attributes(modules)


def _package(path: Path, store: Path, number: int, level: int) -> None:
    (path / "lib" / "größe").mkdir(parents=True)
    (path / "package.json").write_text(json.dumps({"name": path.name, "version": f"1.{number}.{level}"}))
    (path / "cli.js").write_text(f"#!/usr/bin/env node\n// {number}.{level}\n")
    (path / "cli.js").chmod(0o755)
    for file in range(8):
        stored = store / f"{(number * 5 + file) % STORED}.js"
        if not stored.exists():
            stored.write_text(f"module.exports = {stored.name!r};\n" * (number % 40))
        (path / "lib" / f"index{file}.js").hardlink_to(stored)
    (path / "lib" / "größe" / "empty.d.ts").touch()
    os.utime(path / "package.json", (499162500, 499162500))  # as npm packs it: 1985-10-26


def _give_attributes(modules: Path) -> None:
    """Set attributes that `rsync -AX` compares: one of a file, and access control lists of a file and of a folder."""
    first, second = sorted(modules.glob("package*"))[:2]
    os.setxattr(first / "package.json", "user.origin", b"registry")
    entries = ((OWNER, 7, -1), (NAMED_USER, 5, os.getuid()), (GROUP, 5, -1), (MASK, 5, -1), (OTHER, 0, -1))
    listed = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, rights, identity & 0xFFFFFFFF) for tag, rights, identity in entries
    )
    os.setxattr(first / "cli.js", "system.posix_acl_access", listed)
    os.setxattr(second, "system.posix_acl_default", listed)


if __name__ == "__main__":
    {"sources": sources, "node-modules": node_modules}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
