"""`berth cp`: copy files to or from a session, with scp(1)."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import os
import posixpath
import re
import shlex
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from broker.cli.context import Invocation, pass_invocation
from broker.cli.params import SessionName
from broker.errors import BerthError, InvalidInputError
from broker.names import NAME_PATTERN
from broker.user_input import is_utf8

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from click.shell_completion import CompletionItem


class CopyPath(NamedTuple):
    """A path here, or with a session's name a path in that session."""

    session: str | None
    path: str


class CopyPathType(click.ParamType[CopyPath]):
    """`PATH` or `NAME:PATH`. As for scp, a colon after a slash belongs to a path here."""

    name = "path"

    def convert(self, value: str | CopyPath, param: click.Parameter | None, ctx: click.Context | None) -> CopyPath:
        if isinstance(value, CopyPath):
            return value
        name, colon, path = value.partition(":")
        if not value:
            self.fail("a path is empty; `.` is the current directory", param, ctx)
        if not colon or "/" in name:
            return CopyPath(None, value)
        if not re.fullmatch(NAME_PATTERN, name):
            self.fail(f"{name!r} is not the name of a session; write ./{value} for a file here", param, ctx)
        if not is_utf8(path) or "\n" in path:
            self.fail(f"{path!r} is not a path in a session: it must be UTF-8 without line breaks", param, ctx)
        if ctx is not None and (invocation := ctx.find_object(Invocation)) is not None:
            invocation.names.append(name)
        return CopyPath(name, path)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if "/" in incomplete or ":" in incomplete:
            return [CompletionItem(incomplete, type="file")]
        sessions = SessionName().shell_complete(ctx, param, incomplete)
        names = [CompletionItem(f"{item.value}:", help=item.help) for item in sessions]
        return [*names, CompletionItem(incomplete, type="file")]


@click.command("cp")
@click.option("-r", "recursive", is_flag=True, help="Accepted for habit: directories are always copied with content.")
@click.option("-p", "preserve", is_flag=True, help="Keep times and modes.")
@click.option("-q", "quiet", is_flag=True, help="Print no progress and no warnings.")
@click.argument("paths", type=CopyPathType(), nargs=-1, required=True, metavar="SOURCE... DESTINATION")
@pass_invocation
def copy_files(
    invocation: Invocation, paths: tuple[CopyPath, ...], *, recursive: bool, preserve: bool, quiet: bool
) -> NoReturn:
    """Copy files to or from a session.

    NAME:PATH is a path in the session NAME; without a leading slash it is relative to the home there. Other paths are
    here; write ./a:b for a file whose name has a colon. Starts a stopped session, and waits until it is ready.
    Directories are copied with their content, and symbolic links as the files that they point to. Names are taken as
    they are: no shell there sees them, and `*` is no pattern.

    The exit code is scp's: 0 if everything was copied.

    \b
      berth cp data.csv dev:project/
      berth cp dev:project/results .
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    del recursive
    session = _session_of(paths)
    from broker.cli.ssh_process import ssh_command

    _check_scp()
    argv, _ = ssh_command(invocation, session, before=[], after=[])
    flags = ["-s", "-r", *["-p"] * preserve, *["-q"] * quiet]
    command = ["scp", *flags, *argv[1:-1], "--", *_operands(paths, argv[-1])]
    if directory := _directory_there(paths):
        command = _with_hint(command, session, directory)
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming scp, without a shell, is what this is for
    except OSError as error:
        raise _cannot_run(error) from error


def _session_of(paths: Sequence[CopyPath]) -> str:
    """Return the session of the sources or of the destination; InvalidInputError unless one side has one session."""
    *sources, destination = paths
    if not sources:
        raise InvalidInputError(
            "the destination is missing", hint="`berth cp FILE NAME:` copies a file to the home in a session"
        )
    there = {source.session for source in sources}
    if len(there) > 1:
        raise InvalidInputError(
            "the sources are in several places", hint="copy the files of each session by a command of its own"
        )
    [source] = there
    if source is not None and destination.session is not None:
        raise InvalidInputError(
            "source and destination are both in a session",
            hint="`berth exec NAME -- cp A B` copies within a session; else copy to a directory here first",
        )
    session = source or destination.session
    if session is None:
        raise InvalidInputError("no path is in a session", hint="write NAME:PATH for a path in the session NAME")
    return session


def _operands(paths: Sequence[CopyPath], host: str) -> Iterator[str]:
    """Return the paths as scp takes them.

    No path here can be mistaken for one of a host. In sources in the session, scp expands patterns, unless quoted.
    """
    *sources, destination = paths
    for path in (*(source._replace(path=_quote(source)) for source in sources), destination):
        if path.session is not None:
            yield f"{host}:{path.path}"
        else:
            yield path.path if path.path.startswith("/") else f"./{path.path}"


def _directory_there(paths: Sequence[CopyPath]) -> str:
    """Return the directory of the session that the copies need; empty for the home and for copies to here.

    The last part of the path needs not exist, unless a slash follows: scp creates it.
    """
    session, path = paths[-1]
    return "" if session is None else posixpath.dirname(path).rstrip("/")


def _with_hint(scp: Sequence[str], session: str, directory: str) -> list[str]:
    """Return the command that runs scp, and says after its failure how to make the directory there."""
    from broker.cli.ssh_watcher import watcher_command

    words = shlex.join(["mkdir", "-p", directory])
    hint = f"  hint: if {directory} does not exist in {session}, `berth exec {session} -- {words}` creates it"
    explain = ["/bin/sh", "-c", 'printf "%s\\n" "$1" >&2; exit "$2"', "sh", hint]
    return watcher_command(explain, scp, explained=[1])


def _quote(source: CopyPath) -> str:
    return source.path if source.session is None else re.sub(r"([\\*?\[{])", r"\\\1", source.path)


def _check_scp() -> None:
    """Return if scp(1) can use SFTP, as since OpenSSH 8.7: a shell there would interpret paths of the older protocol.

    Raises BerthError.
    """
    import subprocess

    try:
        done = subprocess.run(["ssh", "-V"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _cannot_run(error) from error
    version = re.match(rb"OpenSSH_(\d+)\.(\d+)", done.stderr)
    if version is not None and (int(version[1]), int(version[2])) < _FIRST_WITH_SFTP:
        raise BerthError(
            f"scp of OpenSSH {int(version[1])}.{int(version[2])} cannot use SFTP",
            hint="after `berth ssh-config --install`, sftp and rsync copy files to NAME.berth",
        )


_FIRST_WITH_SFTP = (8, 7)


def _cannot_run(error: Exception) -> BerthError:
    because = error.strerror if isinstance(error, OSError) else "it does not answer"
    return BerthError(f"cannot run scp: {because}", hint="install OpenSSH's client")
