"""Arguments that several of the launcher's verbs have in common. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from broker.launcher.argument_types import (
    Arguments,
    Files,
    Flag,
    ImageDigest,
    IntegerRange,
    Label,
    Line,
    OperationId,
    Path,
    ProfileName,
    ProfileVersion,
    SessionId,
)


@dataclass(frozen=True, kw_only=True)
class SessionArguments(Arguments):
    session: SessionId


@dataclass(frozen=True, kw_only=True)
class OperationArguments(SessionArguments):
    """Arguments of a verb that changes volumes, and does nothing twice for the same operation."""

    operation: OperationId


@dataclass(frozen=True, kw_only=True)
class ImageArguments(Arguments):
    """The image that a system volume lies over."""

    profile: ProfileName
    version: ProfileVersion
    digest: ImageDigest


@dataclass(frozen=True, kw_only=True)
class NoteArguments(Arguments):
    """The description of a snapshot."""

    label: Label = ""
    reason: Line = ""
    automatic: Flag = False


@dataclass(frozen=True, kw_only=True)
class SquashfsArguments(Arguments):
    """The location of an image's squashfs: the path of its SIF file, and the offset in it in bytes."""

    image: Path
    offset: Annotated[int, IntegerRange("offset", 0, 2**63 - 1)]


@dataclass(frozen=True, kw_only=True)
class FilesArguments(SessionArguments):
    files: Files
