"""One user's directory on the shared file system: its sessions, its layers, and its locks.

```
lock                     flock: operations hold it shared, the removal of layers exclusively
probe.json               which driver new sessions get, for a day
layers/<layer id>/       docs/architecture.md, "Storage"
sessions/<session id>/   manifest.json  volumes.json  volumes.lock  run/
trash/<session id>/      a deleted session within its grace time
```
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.names import IDENTIFIER
from broker.volumes import job_notes, record
from broker.volumes.drivers import Driver, get_driver
from broker.volumes.errors import VolumeError
from broker.volumes.files import file_lock
from broker.volumes.layers import Layers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.volumes.record import Record


@dataclass(frozen=True, slots=True)
class Storage:
    """One user's directory."""

    root: Path

    @property
    def layers(self) -> Layers:
        return Layers(self.root / "layers")

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def probe(self) -> Path:
        return self.root / "probe.json"

    def session(self, session_id: str) -> Path:
        return self.root / "sessions" / session_id

    def trash(self, session_id: str) -> Path:
        return self.root / "trash" / session_id

    def make(self) -> None:
        """Make the missing directories. The root itself exists and belongs to the user."""
        for name in ("layers", "sessions", "trash"):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)

    def driver(self, name: str, *, on_node: bool = False) -> Driver:
        return get_driver(name, self.layers, on_node=on_node)

    def trashed_sessions(self) -> list[str]:
        """Return the ids of deleted sessions whose data still exists."""
        folder = self.root / "trash"
        return (
            sorted(each.name for each in folder.iterdir() if IDENTIFIER.fullmatch(each.name)) if folder.is_dir() else []
        )

    def records(self) -> Iterator[tuple[str, Record]]:
        """Yield the id and the record of each session that has one, deleted sessions included.

        VolumeError if a record cannot be read: the removal of unnamed layers needs all records.
        """
        for folder in (self.root / "sessions", self.root / "trash"):
            for entry in sorted(folder.iterdir()):
                if not IDENTIFIER.fullmatch(entry.name):
                    continue
                try:
                    yield entry.name, record.load_record(entry)
                except VolumeError as error:
                    if error.kind != "missing" or record.was_started(entry):
                        raise VolumeError("files", f"{entry}: {error}") from error

    def read_save_time(self, session_id: str, found: Record) -> float | None:
        """Return the time of the last save of a running session's system, 0 without a save. None if no job has the
        system on its node, so that its layers are its present content.
        """
        if found.on_node:
            try:
                with file_lock(self.session(session_id) / "run/lock", shared=True, wait=False):
                    pass
            except FileNotFoundError:
                pass  # it never had a job
            except VolumeError:
                return record.read_save(self.layers.path(found.system.top)).at
        return None

    def job_tops(self, session_id: str) -> set[str]:
        """Return the layers that batch jobs write to, if this is an environment."""
        return {
            begun.top
            for folder in (self.session(session_id), self.trash(session_id))
            for begun in job_notes.read_job_notes(folder)
        }

    @contextlib.contextmanager
    def open_session(self, session_id: str) -> Iterator[SessionVolumes]:
        """Open a session: until the end, no other operation changes its record, and none removes its layers."""
        directory = self.session(session_id)
        if not directory.is_dir():
            raise VolumeError("missing", f"there is no session {session_id} in {self.root}")
        with file_lock(self.lock, shared=True), file_lock(directory / "volumes.lock"):
            found = record.load_record(directory)
            yield SessionVolumes(self, session_id, directory, found, self.driver(found.driver, on_node=found.on_node))


@dataclass(slots=True)
class SessionVolumes:
    """One session's volumes, opened for change."""

    storage: Storage
    id: str
    directory: Path
    record: Record
    driver: Driver

    @contextlib.contextmanager
    def jobs_locked_out(self) -> Iterator[None]:
        """Keep every job of the session out: a job takes the same lock before it mounts anything. VolumeError `busy`.

        The record is read again: a job may have begun, saved its system and ended since.
        """
        (self.directory / "run").mkdir(mode=0o700, exist_ok=True)
        with file_lock(self.directory / "run/lock", wait=False, whose="a job"):
            self.record = record.load_record(self.directory)
            yield

    def commit(self, changed: Record) -> None:
        """Replace the session's record: the commit point of every operation."""
        record.commit_record(self.directory, changed)
        self.record = changed
