"""A writer whose every change is known beforehand, so that its files can be judged by its log at any moment.

`random_writer_program.py write ROOT ACKNOWLEDGED` makes changes until it is killed, and writes the number of the last
one that is done to ACKNOWLEDGED. It continues from the state in ROOT.
`random_writer_program.py judge ROOT NUMBER` fails unless ROOT holds the state after some change, NUMBER or a later one,
or between two: then each byte of the file that the change writes to is the one before or the one after.

ROOT holds the files, `.checkpoint` (what they held after some change) and `.log.N`, which has two lines for each
change after checkpoint N: one from before, one from after. Runs inside a session: the standard library only.
"""

from __future__ import annotations

import base64
import ctypes
import json
import mmap
import os
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

LIBC = ctypes.CDLL(None, use_errno=True)
SEED = 20
NAMES = tuple(f"file{number}" for number in range(8))
MOST_BYTES = 64 * 1024
LARGEST_CHANGE_BYTES = 12_000
CHANGES_PER_CHECKPOINT = 400
CHANGES_PER_READ = 25
PAUSE_S = 0.002
PUNCH_HOLE = 0x01 | 0x02
"""FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE: fallocate(2)."""
GRADUAL = frozenset({"write", "store", "direct", "copy", "make"})
"""Changes that are not one step: stores through a mapping, and system calls that the end of a process interrupts."""
KINDS = (
    "write", "write", "store", "store", "store", "direct", "truncate", "punch", "allocate", "copy", "rename", "replace"
)  # fmt: skip

Contents = dict[str, bytes]
"""The content of each file."""


class WrongError(Exception):
    """The files are in a state that they never were in; the message says how."""


@dataclass(frozen=True, slots=True)
class Change:
    kind: str
    name: str
    at: int = 0
    data: bytes = b""
    size: int = 0
    other: str = ""
    other_at: int = 0


def change(number: int, contents: Contents) -> Change:
    """The change of this number to these contents: always the same."""
    source = random.Random(f"{SEED}/{number}")  # noqa: S311 - it has to be the same each time
    name, kind = source.choice(NAMES), source.choice(KINDS)
    held = contents.get(name, b"")
    at, length = source.randrange(MOST_BYTES - LARGEST_CHANGE_BYTES), source.randrange(1, LARGEST_CHANGE_BYTES)
    other = source.choice(sorted(contents.keys() - {name}) or [""])
    made = Change("truncate", name, size=source.randrange(MOST_BYTES))
    if name not in contents:
        made = Change("make", name, data=source.randbytes(at + 1))
    elif kind == "write":
        made = Change(kind, name, at, source.randbytes(length))
    elif kind == "store" and held:
        at %= len(held)
        made = Change(kind, name, at, source.randbytes(min(length, len(held) - at)))
    elif kind == "direct":
        made = Change(kind, name, at // mmap.PAGESIZE * mmap.PAGESIZE, source.randbytes(mmap.PAGESIZE))
    elif kind in {"punch", "allocate"}:
        made = Change(kind, name, at, size=length)
    elif kind == "copy" and contents.get(other):
        other_at = source.randrange(len(contents[other]))
        made = Change(kind, name, at, b"", min(length, len(contents[other]) - other_at), other, other_at)
    elif kind == "rename" and other:
        made = Change(kind, name, other=other)
    elif kind == "replace":
        made = Change(kind, name, data=source.randbytes(length))
    return made


def after(made: Change, contents: Contents) -> Contents:
    """Return the contents of the files after a change."""
    old = contents.get(made.name, b"")
    if made.kind == "rename":
        return {name: data for name, data in contents.items() if name != made.name} | {made.other: old}
    if made.kind in {"make", "replace"}:
        new = made.data
    elif made.kind == "truncate":
        new = old[: made.size].ljust(made.size, b"\0")
    elif made.kind == "punch":
        new = _overlaid(old, made.at, bytes(made.size))[: len(old)]
    elif made.kind == "allocate":
        new = old.ljust(made.at + made.size, b"\0")
    elif made.kind == "copy":
        new = _overlaid(old, made.at, contents[made.other][made.other_at : made.other_at + made.size])
    else:
        new = _overlaid(old, made.at, made.data)
    return contents | {made.name: new}


def _overlaid(old: bytes, at: int, data: bytes) -> bytes:
    return old.ljust(at, b"\0")[:at] + data + old[at + len(data) :]


def read(root: Path) -> Contents:
    return {name: (root / name).read_bytes() for name in NAMES if (root / name).exists()}


def judge(root: Path) -> tuple[int, Contents]:
    """The number of the last change that has begun, and what the files hold; WrongError if that is wrong."""
    checkpoint = json.loads((root / ".checkpoint").read_bytes())
    number = checkpoint["number"]
    expected = {name: base64.b85decode(text) for name, text in checkpoint["contents"].items()}
    log = root / f".log.{number}"
    lines = log.read_text().splitlines() if log.exists() else []
    actual = read(root)
    for line, after_it in zip(lines, [*lines[1:], ""], strict=True):
        word, _, text = line.partition(" ")
        if word == "done":
            continue
        number += 1
        if (word, text) != ("begun", str(number)):
            raise WrongError(f"the log says {line!r} where change {number} should begin")
        made = change(number, expected)
        then = after(made, expected)
        if not after_it:
            _check_between(made, expected, then, actual)
            return number, actual
        if after_it != f"done {number}":
            raise WrongError(f"the log says {after_it!r} where change {number} should be done")
        expected = then
    _check_equal(number, expected, actual)
    return number, actual


def _check_equal(number: int, expected: Contents, actual: Contents) -> None:
    if expected.keys() != actual.keys():
        raise WrongError(f"after change {number}: files {sorted(actual)} instead of {sorted(expected)}")
    for name, data in expected.items():
        if data != actual[name]:
            at = next((at for at, (a, b) in enumerate(zip(data, actual[name], strict=False)) if a != b), -1)
            raise WrongError(
                f"after change {number}: {name} is wrong from byte {at}; {len(actual[name])} of {len(data)}"
            )


def _check_between(made: Change, before: Contents, then: Contents, actual: Contents) -> None:
    if actual in (before, then):
        return
    if made.kind not in GRADUAL:
        raise WrongError(f"{made.kind} of {made.name} is neither done nor undone")
    rest = {name: data for name, data in before.items() if name != made.name}
    if rest != {name: data for name, data in actual.items() if name != made.name}:
        raise WrongError(f"{made.kind} of {made.name} has changed another file")
    old, new, now = before.get(made.name, b""), then[made.name], actual[made.name]
    if not len(old) <= len(now) <= len(new) and len(now) != len(old):
        raise WrongError(f"{made.kind} of {made.name}: {len(now)} bytes")
    old = old.ljust(len(now), b"\0")
    if any(byte not in {old[at], new[at]} for at, byte in enumerate(now)):
        raise WrongError(f"{made.kind} of {made.name}: bytes of neither before nor after")


@dataclass(slots=True)
class Writer:
    """Makes the changes for real."""

    root: Path
    acknowledged: int
    """A file descriptor."""
    contents: Contents = field(default_factory=dict)
    mappings: dict[str, mmap.mmap] = field(default_factory=dict)
    log: int = -1

    def run(self) -> None:
        """Change until killed; WrongError if a read finds what was not written."""
        self.root.mkdir(exist_ok=True)
        number = 0
        if (self.root / ".checkpoint").exists():
            number, self.contents = judge(self.root)
        self.checkpoint(number)
        while True:
            number += 1
            made = change(number, self.contents)
            os.write(self.log, f"begun {number}\n".encode())
            getattr(self, made.kind)(made)
            os.write(self.log, f"done {number}\n".encode())
            self.contents = after(made, self.contents)
            os.pwrite(self.acknowledged, b"%09d" % number, 0)
            if number % CHANGES_PER_READ == 0:
                self.check(number)
            if number % CHANGES_PER_CHECKPOINT == 0:
                self.checkpoint(number)
            time.sleep(PAUSE_S)

    def checkpoint(self, number: int) -> None:
        """Begin a new log, from what the files should hold now."""
        contents = {name: base64.b85encode(data).decode() for name, data in self.contents.items()}
        beside = self.root / ".checkpoint.new"
        beside.write_text(json.dumps({"number": number, "contents": contents}))
        beside.rename(self.root / ".checkpoint")
        for old in self.root.glob(".log.*"):
            old.unlink()
        if self.log >= 0:
            os.close(self.log)
        self.log = os.open(self.root / f".log.{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def check(self, number: int) -> None:
        """Read all, by read(2) and through the mappings."""
        _check_equal(number, self.contents, read(self.root))
        for name, mapped in self.mappings.items():
            end = min(len(mapped), len(self.contents[name]))
            _check_equal(number, {name: self.contents[name][:end]}, {name: mapped[:end]})

    def opened(self, name: str, flags: int = 0) -> BinaryIO:
        return open(os.open(self.root / name, os.O_RDWR | flags, 0o644), "r+b", buffering=0)  # noqa: PTH123 - of flags

    def make(self, made: Change) -> None:
        with self.opened(made.name, os.O_CREAT | os.O_EXCL) as file:
            os.pwrite(file.fileno(), made.data, 0)

    def write(self, made: Change) -> None:
        with self.opened(made.name) as file:
            os.pwrite(file.fileno(), made.data, made.at)

    def direct(self, made: Change) -> None:
        with self.opened(made.name, os.O_DIRECT) as file, mmap.mmap(-1, mmap.PAGESIZE) as aligned:
            aligned[:] = made.data
            os.pwrite(file.fileno(), aligned, made.at)

    def store(self, made: Change) -> None:
        """Through a mapping that stays: its pages are dirty already, unless the kernel has written them out."""
        end = made.at + len(made.data)
        if made.name not in self.mappings or len(self.mappings[made.name]) < end:
            with self.opened(made.name) as file:
                self.mappings[made.name] = mmap.mmap(file.fileno(), len(self.contents[made.name]))
        self.mappings[made.name][made.at : end] = made.data

    def truncate(self, made: Change) -> None:
        os.truncate(self.root / made.name, made.size)

    def punch(self, made: Change) -> None:
        with self.opened(made.name) as file:
            at, size = ctypes.c_int64(made.at), ctypes.c_int64(made.size)
            if LIBC.fallocate(file.fileno(), PUNCH_HOLE, at, size) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def allocate(self, made: Change) -> None:
        with self.opened(made.name) as file:
            os.posix_fallocate(file.fileno(), made.at, made.size)

    def copy(self, made: Change) -> None:
        with self.opened(made.other) as source, self.opened(made.name) as target:
            done = 0
            while done < made.size:
                done += os.copy_file_range(
                    source.fileno(), target.fileno(), made.size - done, made.other_at + done, made.at + done
                )

    def rename(self, made: Change) -> None:
        (self.root / made.name).rename(self.root / made.other)
        self.mappings.pop(made.other, None)
        if made.name in self.mappings:
            self.mappings[made.other] = self.mappings.pop(made.name)

    def replace(self, made: Change) -> None:
        """Replace a file as an editor does: the new content is beside it, and takes its name."""
        beside = self.root / ".beside"
        beside.write_bytes(made.data)
        beside.rename(self.root / made.name)
        self.mappings.pop(made.name, None)


def main() -> None:
    what, root, third = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if what == "write":
        Writer(root, os.open(third, os.O_WRONLY | os.O_CREAT)).run()
    number, _ = judge(root)
    if number < int(third):
        raise WrongError(f"change {third} was acknowledged, and {number} is the last that is there")
    print(number)


if __name__ == "__main__":
    main()
