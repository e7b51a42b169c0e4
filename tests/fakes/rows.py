"""Rows of the registry for tests, with only what a test is about spelt out."""

from __future__ import annotations

from typing import Any

from broker.controller.registry.models import Session
from broker.names import new_id
from broker.schema.sessions import SessionState

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGoYy5bZWqC9P2KbQ2J4sW1rvqA4mZcCw0WkUqQ9q0X berth"


def make_session(owner: str = "alice", name: str = "dev", **values: Any) -> Session:  # noqa: ANN401 - columns of several types
    """A ready session of its first submission, unless `values` say otherwise; names of a job's columns are about its
    job.
    """
    columns: dict[str, Any] = {
        "id": new_id(),
        "name": name,
        "owner": owner,
        "state": SessionState.READY,
        "profile": "base",
        "version": "1",
        "digest": "sha256:0",
        "image_path": "/image.sif",
        "image_size": 1,
        "created_at": 1.0,
        "submission": 1,
        "host_key": HOST_KEY,
    }
    columns |= values
    columns = {"submissions": columns["submission"]} | columns
    of_job = {name: columns.pop(name) for name in list(columns) if name not in Session.model_fields}
    session = Session(**columns)
    session.job_row = session.job
    for column, value in of_job.items():
        setattr(session.job_row, column, value)
    return session
