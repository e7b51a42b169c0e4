"""Count what each user has of the limited resources, over all workers together.

The workers share one table in memory, which the master makes. Each worker has a section of the table that it alone
writes, and reads all of them; so nothing is locked when a user is counted. The master clears the section of a worker
that has ended. A reload keeps the table: the workers of the past count until their end (ADR 101).

The layout: a header (the table's name, then for each section the process id and the beats of its worker: watchdog), and
the sections. A section has
the number of rows in use, then a key for each row (a digest of the user's name), then three numbers for each row.
"""

from __future__ import annotations

import enum
import fcntl
import hashlib
import logging
import mmap
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

MAGIC = b"berth-usage-v1\0\0"
"""A table of another layout is not used; the next layout has the next number."""
MAX_WORKERS = 256
"""Workers at once, with those of the past that still have connections."""
MAX_USERS_PER_WORKER = 4096
"""Users with connections in one worker at once. Any more are counted by their worker alone."""

_WORD, _KEY = 8, 16
_ID_BYTES = 4
_BEATS = 2048
"""Offset of the first worker's beats, behind the process ids."""
_HEADER_BYTES = 4096
_KEYS = _WORD
_NUMBERS = _KEYS + MAX_USERS_PER_WORKER * _KEY


class Resource(enum.IntEnum):
    """The kinds of resources that are counted."""

    CONNECTIONS = 0
    FORWARDS = 1
    WINDOW_BYTES = 2
    """Bytes by which the windows of a user's forwards are larger than at their beginning."""


_ROW = len(Resource) * _WORD
_SECTION = -(-(_NUMBERS + MAX_USERS_PER_WORKER * _ROW) // mmap.PAGESIZE) * mmap.PAGESIZE
_SIZE = _HEADER_BYTES + MAX_WORKERS * _SECTION
"""40 MiB of addresses; memory is taken only for the pages that are used."""

_log = logging.getLogger(__name__)


class UsageTable:
    """The shared memory with the counts, as the master has it."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor`: a table of this layout; ValueError for anything else."""
        try:
            named = os.pread(descriptor, len(MAGIC), 0) == MAGIC and os.fstat(descriptor).st_size == _SIZE
        except OSError:
            named = False
        if not named:
            raise ValueError(f"descriptor {descriptor} is no table of this program's")
        self.descriptor = descriptor
        self.memory = mmap.mmap(descriptor, _SIZE)

    @classmethod
    def create(cls) -> UsageTable:
        """Make an empty table."""
        descriptor = os.memfd_create("berth-usage")
        os.ftruncate(descriptor, _SIZE)
        os.pwrite(descriptor, MAGIC, 0)
        return cls(descriptor)

    def claim(self) -> int | None:
        """Give a free section to this process; None if there is none."""
        # The lock ends with the process, should it die here.
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
        try:
            taken = set(dict(self.sections()))
            for index in range(MAX_WORKERS):
                if index not in taken:
                    self.set_word(_BEATS + index * _WORD, 0)
                    self._set_worker(index, os.getpid())
                    return index
            return None
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)

    def release(self, pid: int) -> None:
        """Clear the counts of the ended worker `pid`. The master calls this before it reaps the worker."""
        for index, worker in list(self.sections()):
            if worker == pid:
                start = self.start(index)
                used = self.count_rows(start)
                for at, row in ((start + _KEYS, _KEY), (start + _NUMBERS, _ROW)):
                    self.memory[at : at + used * row] = bytes(used * row)
                self.set_word(start, 0)
                self._set_worker(index, 0)

    def keep_only(self, workers: Collection[int]) -> None:
        """Clear the counts of all other processes: a worker may have ended just before a reload."""
        for pid in {pid for _, pid in self.sections()}.difference(workers):
            self.release(pid)

    def sections(self) -> Iterator[tuple[int, int]]:
        """Yield the sections in use, with the process ids of their workers."""
        workers = memoryview(self.memory[len(MAGIC) : len(MAGIC) + MAX_WORKERS * _ID_BYTES]).cast("I")
        return ((index, pid) for index, pid in enumerate(workers) if pid)

    def beats(self, index: int) -> int:
        """Return the number of beats of the worker of section `index`."""
        return self.word(_BEATS + index * _WORD)

    def beat(self, index: int) -> None:
        """Count one more beat."""
        self.set_word(_BEATS + index * _WORD, self.beats(index) + 1)

    def find(self, start: int, key: bytes) -> int | None:
        """Return the offset of the numbers of the user `key` in the section at `start`."""
        keys = start + _KEYS
        end = keys + self.count_rows(start) * _KEY
        at = self.memory.find(key, keys, end)
        while at >= 0 and (at - keys) % _KEY:
            at = self.memory.find(key, at + 1, end)
        return None if at < 0 else self.row(start, (at - keys) // _KEY)

    @staticmethod
    def start(index: int) -> int:
        """Return the offset of section `index`."""
        return _HEADER_BYTES + index * _SECTION

    @staticmethod
    def row(start: int, number: int) -> int:
        """Return the offset of that row's numbers."""
        return start + _NUMBERS + number * _ROW

    def count_rows(self, start: int) -> int:
        """Return the number of rows of the section at `start` that may be in use."""
        return min(self.word(start), MAX_USERS_PER_WORKER)

    def word(self, at: int) -> int:
        return int.from_bytes(self.memory[at : at + _WORD], "little")

    def set_word(self, at: int, value: int) -> None:
        self.memory[at : at + _WORD] = value.to_bytes(_WORD, "little")

    def set_key(self, start: int, number: int, key: bytes) -> None:
        at = start + _KEYS + number * _KEY
        self.memory[at : at + _KEY] = key

    def _set_worker(self, index: int, pid: int) -> None:
        at = len(MAGIC) + index * _ID_BYTES
        self.memory[at : at + _ID_BYTES] = pid.to_bytes(_ID_BYTES, "little")


class Usage:
    """The counts of one worker's users, with their counts in the other workers."""

    def __init__(self, table: UsageTable | None = None) -> None:
        """`table`: the master's; without one the worker counts for itself."""
        self._table = table if table is not None else UsageTable.create()
        self._section = self._table.claim()
        if self._section is None:
            _log.warning("too many workers have connections: this one counts what its users have by itself")
        self._counts: Counter[tuple[str, Resource]] = Counter()
        self._rows: dict[str, int] = {}
        self._free: list[int] = []

    def take(self, user: str, kind: Resource, amount: int, most: int) -> bool:
        """Count `amount` more for `user`; or count nothing and return False if that was more than `most` in all."""
        # To count first and ask then means that two workers at the same moment may both refuse, and never both agree.
        self._add(user, kind, amount)
        if self.total(user, kind) <= most:
            return True
        self._add(user, kind, -amount)
        return False

    def give_back(self, user: str, kind: Resource, amount: int) -> None:
        """Count `amount` less for `user`."""
        if amount:
            self._add(user, kind, -amount)

    def beat(self) -> None:
        """Show the master that this worker runs."""
        if self._section is not None:
            self._table.beat(self._section)

    def total(self, user: str, kind: Resource) -> int:
        """Return what `user` has in all workers together."""
        table, key = self._table, _key(user)
        total = self._counts[user, kind]
        for index, _ in table.sections():
            if index != self._section and (row := table.find(table.start(index), key)) is not None:
                total += table.word(row + kind * _WORD)
        return total

    def _add(self, user: str, kind: Resource, amount: int) -> None:
        self._counts[user, kind] += amount
        if self._section is not None:
            self._write(self._section, user, kind)
        if not any(self._counts[user, each] for each in Resource):
            for each in Resource:
                del self._counts[user, each]

    def _write(self, section: int, user: str, kind: Resource) -> None:
        table, start = self._table, self._table.start(section)
        number = self._rows.get(user)
        if number is None:
            number = self._free.pop() if self._free else len(self._rows)
            if number >= MAX_USERS_PER_WORKER:
                return
            self._rows[user] = number
            for each in Resource:
                table.set_word(table.row(start, number) + each * _WORD, self._counts[user, each])
            table.set_key(start, number, _key(user))
            table.set_word(start, max(table.count_rows(start), number + 1))
        table.set_word(table.row(start, number) + kind * _WORD, self._counts[user, kind])
        if not any(self._counts[user, each] for each in Resource):
            table.set_key(start, number, bytes(_KEY))
            self._free.append(self._rows.pop(user))


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limit of one user for one kind."""

    usage: Usage
    user: str
    kind: Resource
    most: int

    def take(self, amount: int = 1) -> bool:
        """Count `amount` more, unless that was more than the user may have."""
        return self.usage.take(self.user, self.kind, amount, self.most)

    def give_back(self, amount: int = 1) -> None:
        """Count `amount` less."""
        self.usage.give_back(self.user, self.kind, amount)


def _key(user: str) -> bytes:
    return hashlib.blake2b(user.encode(), digest_size=_KEY).digest()
