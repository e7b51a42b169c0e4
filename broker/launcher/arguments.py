"""Arguments of the launcher's verbs, one class each: the controller fills it in, the launcher validates it.

In a request the fields stand beside `id`, `verb` and `user`. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from broker.launcher.argument_bases import (
    FilesArguments,
    ImageArguments,
    NoteArguments,
    OperationArguments,
    SessionArguments,
    SquashfsArguments,
)
from broker.launcher.argument_types import (
    Arguments,
    BatchJobKey,
    DriverName,
    Flag,
    ImageDigest,
    IntegerRange,
    JobNumber,
    ProfileName,
    ProfileVersion,
    Seconds,
    SessionId,
    ShownName,
    SnapshotNumber,
    SubmissionNumber,
    Text,
)
from broker.launcher.sharing_arguments import ReceiveArguments, SendArguments, SurveyArguments

# Sessions.


@dataclass(frozen=True, kw_only=True)
class PrepareArguments(SessionArguments):
    """Make what a session lacks of its directories, volumes and host key."""

    VERB = "prepare"
    driver: DriverName = "auto"


@dataclass(frozen=True, kw_only=True)
class RenewArguments(SessionArguments):
    """Replace the host key of a session without a job."""

    VERB = "renew"


@dataclass(frozen=True, kw_only=True)
class InstallArguments(FilesArguments):
    """Write files into a session's directory."""

    VERB = "install"


@dataclass(frozen=True, kw_only=True)
class SubmitArguments(FilesArguments):
    """Write files and submit a session's job within `timeout` seconds."""

    VERB = "submit"
    submission: SubmissionNumber
    options: list[Text]
    """Checked again by slurm.sbatch."""
    shown_name: ShownName = ""
    beside: Flag = False
    """Whether the job may start while the session's present job runs."""
    timeout: Seconds = 30.0


@dataclass(frozen=True, kw_only=True)
class EstimateArguments(SessionArguments):
    """Ask Slurm, within `timeout` seconds, when a job with these options would start."""

    VERB = "estimate"
    options: list[Text]
    """Checked again by slurm.sbatch."""
    timeout: Seconds = 5.0


@dataclass(frozen=True, kw_only=True)
class HoldArguments(OperationArguments):
    """Let a session's job give up its volumes within `wait` seconds, and wait for the session's next run."""

    VERB, IS_LONG = "hold", True
    submission: SubmissionNumber
    job_id: JobNumber
    wait: Seconds = 600.0


@dataclass(frozen=True, kw_only=True)
class BeginArguments(FilesArguments):
    """Write files and let a held job begin the session's next run within `timeout` seconds."""

    VERB = "begin"
    submission: SubmissionNumber
    job_id: JobNumber
    timeout: Seconds = 30.0


@dataclass(frozen=True, kw_only=True)
class KeysArguments(Arguments):
    """Read the user's own authorized_keys file."""

    VERB = "keys"


@dataclass(frozen=True, kw_only=True)
class LogArguments(SessionArguments):
    """Read the last `bytes` bytes of a session's job log."""

    VERB = "log"
    bytes: Annotated[int, IntegerRange("number of bytes", 0, 2**63 - 1)]


@dataclass(frozen=True, kw_only=True)
class TerminalsArguments(SessionArguments):
    """Read the number of terminals that logins have open in a session, as its job reported it last."""

    VERB = "terminals"


@dataclass(frozen=True, kw_only=True)
class ListedServicesArguments(SessionArguments):
    """Read the list of a session's services, as its job reported it last."""

    VERB = "listed_services"


@dataclass(frozen=True, kw_only=True)
class ManifestsArguments(Arguments):
    """Read the manifests of all the user's sessions."""

    VERB = "manifests"


@dataclass(frozen=True, kw_only=True)
class OwnImageArguments(Arguments):
    """Read a version of a profile in the user's own store, that of a channel, or the default one."""

    VERB = "own_image"
    profile: ProfileName
    version: ProfileVersion | None = None
    packages: Flag = False
    """Whether to read the image's list of packages, too."""


# Volumes.


@dataclass(frozen=True, kw_only=True)
class SnapshotArguments(OperationArguments, ImageArguments, NoteArguments):
    """Take a snapshot of a session without a job."""

    VERB, IS_LONG, WALKS_TREES = "snapshot", True, "if copied"


@dataclass(frozen=True, kw_only=True)
class CopyArguments(OperationArguments, ImageArguments, NoteArguments):
    """Take a snapshot of a running session, by its job."""

    VERB, IS_LONG = "copy", True
    job_id: JobNumber


@dataclass(frozen=True, kw_only=True)
class CommitRootArguments(OperationArguments):
    """Make the changes of root mode a layer of the system volume."""

    VERB, IS_LONG = "commit_root", True
    job_id: JobNumber


@dataclass(frozen=True, kw_only=True)
class HandOverArguments(SessionArguments, ImageArguments):
    """Have the job of a submission begin with new tops over a snapshot."""

    VERB = "hand_over"
    submission: SubmissionNumber
    most: Annotated[int, IntegerRange("number of layers", 1, 10**9 - 1)]
    """With as many layers in a stack, nothing is done."""


@dataclass(frozen=True, kw_only=True)
class RollbackArguments(OperationArguments, ImageArguments):
    """Make a stopped session's volumes what they were in a snapshot."""

    VERB, IS_LONG, WALKS_TREES = "rollback", True, "if copied"
    snapshot: SnapshotNumber


@dataclass(frozen=True, kw_only=True)
class SwitchArguments(OperationArguments, ImageArguments):
    """Give a stopped session a system volume over the image `to`: a fresh one, or the one that it had there."""

    VERB, IS_LONG, WALKS_TREES = "switch", True, "if copied"
    to: ImageArguments
    fresh: Flag = False


@dataclass(frozen=True, kw_only=True)
class CloneArguments(OperationArguments, ImageArguments, FilesArguments):
    """Make a session whose volumes begin as the source's, at a snapshot or as they are now."""

    VERB, IS_LONG, WALKS_TREES = "clone", True, "if copied"
    source: SessionId
    snapshot: SnapshotNumber | None = None
    to: ImageArguments | None = None
    """Another image than the source's, without the source's system volume."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentArguments(OperationArguments, ImageArguments, FilesArguments):
    """Make a batch job's environment of a session, at a snapshot or as it is now, or with empty volumes."""

    VERB, IS_LONG = "environment", True
    source: SessionId | None = None
    snapshot: SnapshotNumber | None = None
    driver: DriverName = "auto"


@dataclass(frozen=True, kw_only=True)
class EnvironmentsArguments(Arguments):
    """List the environments of batch jobs."""

    VERB = "environments"


@dataclass(frozen=True, kw_only=True)
class PromoteArguments(OperationArguments, FilesArguments):
    """Make a session of the files that a batch job has left in its environment `source`."""

    VERB, IS_LONG, WALKS_TREES = "promote", True, "if copied"
    source: SessionId
    job: BatchJobKey


@dataclass(frozen=True, kw_only=True)
class FlattenArguments(OperationArguments, SquashfsArguments):
    """Join the layers of deep stacks over an image."""

    VERB, IS_LONG, WALKS_TREES = "flatten", True, "always"
    digest: ImageDigest


@dataclass(frozen=True, kw_only=True)
class SnapshotsArguments(SessionArguments):
    """List the snapshots of a session."""

    VERB = "snapshots"


@dataclass(frozen=True, kw_only=True)
class ForgetArguments(SessionArguments):
    """Delete a snapshot."""

    VERB = "forget"
    snapshot: SnapshotNumber


@dataclass(frozen=True, kw_only=True)
class DiffArguments(SessionArguments, SquashfsArguments):
    """Compare a session, or one of its snapshots, with a snapshot or with an image."""

    VERB, IS_LONG, WALKS_TREES = "diff", True, "always"
    snapshot: SnapshotNumber | None = None
    until: SnapshotNumber | None = None
    """The snapshot whose changes are listed; without it, those of the present state."""
    base_packages: Text = ""
    """The image's list of packages."""
    content: Flag = False
    """Whether files with the same size and time are read."""
    own: Flag = False
    """Whether only the user's own changes of the system are listed: packages and files of none."""


@dataclass(frozen=True, kw_only=True)
class SizeArguments(SessionArguments):
    """Measure the disk space of a session."""

    VERB, IS_LONG, WALKS_TREES = "size", True, "always"


@dataclass(frozen=True, kw_only=True)
class UsageArguments(Arguments):
    """Measure the disk space of a user."""

    VERB, IS_LONG, WALKS_TREES = "usage", True, "always"


@dataclass(frozen=True, kw_only=True)
class VerifyArguments(SessionArguments):
    """Read every immutable layer of a session and compare it with its checksums."""

    VERB, IS_LONG, WALKS_TREES = "verify", True, "always"


@dataclass(frozen=True, kw_only=True)
class ProbeArguments(Arguments):
    """Find the driver that a new session of the user gets."""

    VERB = "probe"


@dataclass(frozen=True, kw_only=True)
class TrashArguments(SessionArguments):
    """Set a deleted session aside."""

    VERB = "trash"


@dataclass(frozen=True, kw_only=True)
class UntrashArguments(SessionArguments):
    """Bring back a session that was set aside."""

    VERB = "untrash"


@dataclass(frozen=True, kw_only=True)
class PurgeArguments(SessionArguments):
    """Remove a session for good."""

    VERB, IS_LONG, WALKS_TREES = "purge", True, "always"


@dataclass(frozen=True, kw_only=True)
class GcArguments(Arguments):
    """Remove the deleted sessions `over`, and the layers that no session needs, or only count them."""

    VERB, IS_LONG, WALKS_TREES = "gc", True, "always"
    over: list[SessionId]
    dry_run: Flag = False


ARGUMENTS: dict[str, type[Arguments]] = {
    kind.VERB: kind
    for kind in (
        *(PrepareArguments, RenewArguments, InstallArguments, SubmitArguments, EstimateArguments),
        *(HoldArguments, BeginArguments),
        *(KeysArguments, LogArguments, TerminalsArguments, ListedServicesArguments),
        *(ManifestsArguments, OwnImageArguments),
        *(SnapshotArguments, CopyArguments, CommitRootArguments, HandOverArguments, RollbackArguments),
        *(SwitchArguments, CloneArguments, EnvironmentArguments, EnvironmentsArguments, PromoteArguments),
        *(ReceiveArguments, SendArguments, SurveyArguments),
        *(FlattenArguments, SnapshotsArguments, ForgetArguments, DiffArguments, SizeArguments, UsageArguments),
        *(VerifyArguments, ProbeArguments, TrashArguments, UntrashArguments, PurgeArguments, GcArguments),
    )
}
"""The arguments of every verb."""
LONG_VERBS = frozenset(verb for verb, kind in ARGUMENTS.items() if kind.IS_LONG)
"""Verbs that may have to read or write everything in a session's volumes."""
