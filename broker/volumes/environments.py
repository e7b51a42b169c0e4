"""Environments of batch jobs: session directories without a manifest, which the registry does not know.

```
sessions/<environment id>/
  batch.json        the description of the environment; its presence marks the directory as no session
  volumes.json      as a session's; nothing writes to the tops that it names
  run/lock          held shared by every job in it
  run/job           the id of the job that was submitted for it
  run/jobs/<key>    KEY=VALUE lines of each job that has begun, locked while it runs: docs/reference/batch-job.md
```

Each job writes to a top of its own, so that the tasks of a job array do not meet. The job's file has the id of the top
before the top is made.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from broker.names import IDENTIFIER
from broker.volumes import job_notes, operations, record
from broker.volumes.errors import VolumeError
from broker.volumes.files import file_lock
from broker.volumes.record import Record

if TYPE_CHECKING:
    from pathlib import Path

    from broker.volumes.storage import Storage

DESCRIPTION = "batch.json"
MAX_ENVIRONMENTS = 10_000
"""Environments that are read."""

Answer = dict[str, Any]


def is_environment(directory: Path) -> bool:
    return (directory / DESCRIPTION).exists()


def list_environments(storage: Storage) -> Answer:
    """Return every environment, with the jobs that have begun in it."""
    folder = storage.root / "sessions"
    found = []
    for entry in sorted(folder.iterdir())[:MAX_ENVIRONMENTS]:
        if IDENTIFIER.fullmatch(entry.name) and is_environment(entry):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.append(_describe(storage, entry))
    return {"environments": found}


def promote_job(storage: Storage, session_id: str, operation: str, *, source_id: str, key: str) -> Answer:
    """Make the session `session_id` from the result that an ended job left in its environment.

    VolumeError `busy` while the job runs, `missing` if no job of that key has begun there.
    """
    directory = storage.session(session_id)
    with storage.open_session(source_id) as source:
        if (directory / "volumes.json").exists():
            return record.load_record(directory).done[operation]
        begun = next((each for each in job_notes.read_job_notes(source.directory) if each.key == key), None)
        if begun is None or not is_environment(source.directory):
            raise VolumeError("missing", f"no job {key} has begun there")
        with file_lock(source.directory / "run/jobs" / key, wait=False, whose=f"job {key}"):
            home = (*source.record.home.layers, begun.top)
            system = source.record.system.layers
            if source.record.driver != "overlay" and not source.record.on_node:  # whose tops are whole copies
                system = (*system, source.record.system.top)
            storage.layers.check({*home, *system})
            made = Record(
                driver=source.record.driver,
                home=source.driver.fork("home", home),
                system=source.driver.fork("system", system),
                digest=source.record.digest,
                on_node=source.record.on_node,
            )
        for each in (directory, directory / "run"):
            each.mkdir(mode=0o700, exist_ok=True)
        answer: Answer = {"volumes": operations.describe_volumes(storage, made)}
        record.commit_record(directory, made.with_answer(operation, answer))
        return answer


def _describe(storage: Storage, directory: Path) -> Answer:
    described = json.loads(job_notes.read_user_file(directory / DESCRIPTION))
    found = record.load_record(directory)
    begun = job_notes.read_job_notes(directory)
    marks = [directory / "run/job", *(directory / "run/jobs" / each.key for each in begun)]
    with contextlib.suppress(FileNotFoundError, ValueError):
        described["job_id"] = int(job_notes.read_user_file(directory / "run/job"))
    top = storage.layers.tree
    return {
        **described,
        "id": directory.name,
        "directory": str(directory),
        "driver": found.driver,
        "base": "" if found.driver == "overlay" else str(top(found.home.top)),
        "used_at": max([described["created_at"], *(mark.stat().st_mtime for mark in marks if mark.exists())]),
        "jobs": [
            {
                "key": each.key,
                "top": str(top(each.top)),
                "node": each.node,
                "work": each.work,
                "inside": each.inside,
                "running": _is_locked(directory / "run/jobs" / each.key),
            }
            for each in begun
        ],
    }


def _is_locked(file: Path) -> bool:
    try:
        with file_lock(file, wait=False):
            return False
    except VolumeError:
        return True
