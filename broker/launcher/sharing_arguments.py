"""Arguments of the verbs by which a snapshot gets from one user to another. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from broker.launcher.argument_bases import FilesArguments, OperationArguments, SessionArguments
from broker.launcher.argument_types import (
    DriverName,
    Flag,
    ImageDigest,
    IntegerRange,
    SenderName,
    SessionId,
    SnapshotNumber,
)


@dataclass(frozen=True, kw_only=True)
class ReceiveArguments(OperationArguments, FilesArguments):
    """Make a session of a snapshot that a process of another user sends: the launcher starts that process, too."""

    VERB, IS_LONG, WALKS_TREES = "receive", True, "always"
    owner: SenderName
    """The user whose snapshot it is."""
    source: SessionId
    snapshot: SnapshotNumber
    digest: ImageDigest
    """Of the image below the system volume."""
    system: Flag = True
    """Whether the system volume is sent, too."""
    driver: DriverName = "auto"
    most_bytes: Annotated[int, IntegerRange("number of bytes", 0, 2**63 - 1)]


@dataclass(frozen=True, kw_only=True)
class SendArguments(SessionArguments):
    """Send a snapshot to the process of a `receive`. The launcher makes this request of that one."""

    VERB, IS_LONG, WALKS_TREES = "send", True, "always"
    snapshot: SnapshotNumber
    system: Flag = True


@dataclass(frozen=True, kw_only=True)
class SurveyArguments(SessionArguments):
    """List what `send` would leave out of a snapshot."""

    VERB, IS_LONG, WALKS_TREES = "survey", True, "always"
    snapshot: SnapshotNumber
