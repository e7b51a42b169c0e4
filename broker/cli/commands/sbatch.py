"""`berth sbatch`: run the site's own sbatch; with `--env` the script runs in an environment of Berth.

Without an environment, this process becomes sbatch. With one, sbatch gets a wrapper script: the head of the user's
script, so that sbatch reads its `#SBATCH` lines, then a command that opens the environment on the node, then the whole
script.
"""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from click.shell_completion import CompletionItem

from broker.cli import output
from broker.cli.amounts import WorkAmounts
from broker.cli.context import Invocation, pass_invocation
from broker.cli.errors import InterruptedWaitError
from broker.cli.exported import ExportedEnvironment
from broker.cli.job_report import JobReport
from broker.cli.params import EnvironmentName
from broker.cli.progress import ProgressLine
from broker.cli.sbatch_program import SbatchProgram, is_called_by_sbatch_script
from broker.cli.working_directory import WorkingDirectory
from broker.errors import BerthError, InvalidInputError
from broker.format import format_duration, format_size
from profiles.userfile import is_file
from slurm.commandline import BERTH_OPTIONS, EXACT_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.schema.environments import EnvironmentRequest, EnvironmentView
    from slurm.commandline import CommandLine
    from slurm.sbatch import Option

DIRECTIVE = "#BERTH"
VARIABLE = "BERTH_ENV"
MARK = b"#### berth: the script itself follows; the node cuts it off here"
"""The line before the user's script; batch.sh searches for it."""
WRAPPED = "#!/bin/sh\n\n# This script was created by sbatch --wrap.\n\n{}\n"
"""The script that sbatch creates for --wrap."""


class _AsTheyAre(click.Command):
    """A command that passes all arguments to sbatch, also `--` and `--help`; the shell completes sbatch's options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = tuple(args)
        return []

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from slurm.sbatch import OPTIONS

        del ctx
        return [
            CompletionItem(f"--{name}") for name in [*BERTH_OPTIONS, *OPTIONS] if f"--{name}".startswith(incomplete)
        ]


class _Script(click.ParamType[str]):
    """An argument that the shell completes as a file."""

    name = "script"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(incomplete, type="file")]


@click.command(cls=_AsTheyAre, add_help_option=False)
@click.option(
    "--env", type=EnvironmentName(), metavar="SESSION|PROFILE[@VERSION]", help="Run the script in this environment."
)
@click.option("--at", metavar="SNAPSHOT", help="With --env SESSION: the session as it was in a snapshot.")
@click.option("--json", "as_json", is_flag=True, help="With --env: print job, exit code, environment and log as JSON.")
@click.argument("words", nargs=-1, type=_Script(), metavar="[SBATCH OPTIONS]... [SCRIPT [ARGS]...]")
@pass_invocation
@click.pass_context
def sbatch(ctx: click.Context, invocation: Invocation, words: tuple[str, ...]) -> None:
    """Submit a batch job, optionally in an environment.

    All arguments are passed to the site's sbatch; output and exit code are those of sbatch, so
    `alias sbatch='berth sbatch'` breaks no script. Three options are added:

    \b
      berth sbatch --env dev job.sh           the session dev as it is now
      berth sbatch --env dev --at 3 job.sh    the same as it was in snapshot 3
      berth sbatch --env triton-xpu@4 job.sh  a profile, with an empty home

    The script runs with the session's image and packages, in its own copy of the session's home; the session keeps
    running. `#BERTH --env dev` in the script and the variable BERTH_ENV have the same effect; --env= selects none.
    With --json, standard output has one JSON object and nothing else. --wait and the exit code are sbatch's.
    `berth fetch JOBID` copies the job's output, `berth promote JOBID NAME` creates a session from its files.
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    if is_called_by_sbatch_script(os.environ):
        SbatchProgram.find(os.environ).become(
            words
        )  # the first call created the environment, and the wrapper script has the options
    submission = Submission.read(words)
    if submission.prints_help:
        output.write(f"{ctx.get_help()}\n\n")  # sbatch's own help follows
        submission.become_sbatch()
    if submission.environment:
        sys.exit(submission.submit_into(invocation, submission.environment))
    submission.check_without_environment()
    submission.become_sbatch()


class Submission:
    """A call of sbatch: its arguments, the source of the script, and the environment."""

    def __init__(
        self, line: CommandLine, script: Path | None, text: bytes | None, environment: EnvironmentRequest | None
    ) -> None:
        self._line = line
        self._script = script
        self._text = text
        """The script; None if sbatch would not find one."""
        self.environment = environment
        """The session or profile, and the snapshot; None without an environment."""

    @classmethod
    def read(cls, words: Sequence[str]) -> Submission:
        from slurm.commandline import CommandLineError

        try:
            line = _read(words)
        except CommandLineError as error:  # sbatch reports it
            return cls(error.line, None, None, None)
        script, text = None, None
        if (wrapped := line.value("wrap")) is not None:
            text = WRAPPED.format(wrapped).encode(errors="surrogateescape")
        elif line.script:
            script = _find_script(line.script[0])
            with contextlib.suppress(OSError):
                text = script.read_bytes() if script is not None else None
        elif not _only_prints(line):
            text = sys.stdin.buffer.read()
        return cls(line, script, text, _requested_environment(line, text or b""))

    @property
    def prints_help(self) -> bool:
        """Whether sbatch would print its help, and submit nothing."""
        return self._line.has("help")

    def check_without_environment(self) -> None:
        """Raise InvalidInputError for an option that needs an environment."""
        for name in EXACT_OPTIONS:
            if self._line.has(name):
                raise InvalidInputError(f"--{name} needs --env", hint="`berth sbatch --env SESSION …`")

    def become_sbatch(self) -> NoReturn:
        """Replace this process by sbatch. A script from standard input is made available to it again."""
        if self._text is not None and self._script is None and self._line.value("wrap") is None:
            again = os.memfd_create("script")
            os.write(again, self._text)
            os.lseek(again, 0, os.SEEK_SET)
            os.dup2(again, 0)
        SbatchProgram.find(os.environ).become([*self._line.without(*BERTH_OPTIONS), *self._line.script])

    def submit_into(self, invocation: Invocation, request: EnvironmentRequest) -> int:
        """Create the environment and run sbatch; return its exit code."""
        text = self._text
        if text is None or not text.startswith(b"#!"):
            self.become_sbatch()  # sbatch reports the error
        program = SbatchProgram.find(os.environ)  # before the copy, which may take long: is there an sbatch?
        environment = _make_environment(invocation, request)
        report = JobReport(environment) if self._line.has("json") else None
        kept = False
        try:
            exported = ExportedEnvironment.of(self._line, text, os.environ)
            words, stdin = self._words_and_input(environment, carrier(text, environment, exported.explicit))

            def note(job_id: int) -> None:
                _note(environment, job_id)
                if report is not None:
                    report.note(job_id)

            write = output.write_bytes if report is None else _ignore
            code, job_id = program.run(words, stdin, write=write, note=note)
            if job_id is not None and not self._line.has("quiet"):
                directory = WorkingDirectory.of(self._line, text)
                remarks = directory.remarks(environment, job_id)
                for remark in [*remarks, *exported.remarks(os.environ, environment.variables)]:
                    output.print_note(f"berth: {remark}")
            kept = job_id is not None or self._may_have_submitted(code)
            if report is not None:
                output.print_json(report.result(code if self._line.has("wait") or job_id is None else None))
        except KeyboardInterrupt:
            kept = True  # there may be a job; if not, Berth removes the environment after its grace time
            raise InterruptedWaitError(
                "interrupted; sbatch may have submitted the job already", hint="`squeue --me` lists your jobs"
            ) from None
        finally:
            if not kept:
                with contextlib.suppress(BerthError):
                    invocation.client.discard_environment(environment.id)
        return code

    def _may_have_submitted(self, code: int) -> bool:
        """Whether there may be a job whose id sbatch did not print, as with --quiet. The job itself reports its id."""
        if self._line.has("test-only"):
            return False
        return code == 0 or (self._line.has("quiet") and self._line.has("wait"))

    def _words_and_input(self, environment: EnvironmentView, text: bytes) -> tuple[list[str], bytes | None]:
        """Return sbatch's arguments and input with the wrapper script `text` in place of the user's script."""
        words = self._line.without(*BERTH_OPTIONS)
        if self._line.has("wrap"):
            return [
                f"--wrap={os.fsdecode(text)}",
                *self._line.without(*BERTH_OPTIONS, "wrap"),
                *self._line.script,
            ], None
        if self._script is None:
            return words, text
        directory = Path(environment.directory) / "run/script"
        with _umask(0o077):
            directory.mkdir(exist_ok=True)
            (directory / self._script.name).write_bytes(text)  # the file's name is the job's default name
            directory.with_name("command").write_bytes(os.fsencode(self._script.absolute()))  # for scripts that read it
        return [*words, str(directory / self._script.name), *self._line.script[1:]], None


def _ignore(_: bytes) -> None:
    """Drop a part of sbatch's output: the report has the job's id."""


def _make_environment(invocation: Invocation, request: EnvironmentRequest) -> EnvironmentView:
    """Create the environment, with progress on stderr. InterruptedWaitError after Ctrl-C: the controller removes it."""
    name = request.of if request.at is None else f"{request.of}, snapshot {request.at}"
    amounts = WorkAmounts(invocation, request.of)
    try:
        with ProgressLine(f"berth: making the environment of {name}", amounts=amounts) as progress:
            environment = invocation.client.make_environment(request)
    except KeyboardInterrupt:
        raise InterruptedWaitError(
            f"interrupted; no job was submitted, and Berth removes the environment of {name}"
        ) from None
    if progress.lasted is not None:
        size = f" from {format_size(amounts.total_bytes)} of changed files" if amounts.total_bytes else ""
        output.print_note(f"berth: made the environment of {name}{size} in {format_duration(progress.lasted)}")
    from broker.cli.channels import note_deprecated_session

    note_deprecated_session(invocation, environment)
    return environment


def carrier(script: bytes, environment: EnvironmentView, explicit: Sequence[str]) -> bytes:
    """Return the wrapper script: the head of the user's script, a command that opens the environment, and the script.

    The variables `explicit` have precedence over the profile's.
    """
    from slurm.commandline import script_head

    lines = [b"#!/bin/bash", *script_head(script)[1:]]
    opener = shlex.join(["/bin/bash", f"{environment.directory}/run/batch.sh", "run", ",".join(explicit)])
    said = f"# What follows the last line of this part runs in {environment.of}, by Berth (berth-sbatch(1))."
    lines += [os.fsencode(said), os.fsencode(f'exec {opener} "$0" "$@"'), MARK, b""]
    return b"\n".join(lines) + script


def _read(words: Sequence[str]) -> CommandLine:
    """Parse sbatch's arguments, with the options that the site's plugins add."""
    from slurm.commandline import CommandLineError, parse_help, read_command_line
    from slurm.sbatch import OPTIONS

    try:
        return read_command_line(words)
    except CommandLineError:
        site_options: dict[str, Option] = {}
        with contextlib.suppress(OSError, subprocess.TimeoutExpired, BerthError):
            program = SbatchProgram.find(os.environ)
            command = [program.path, "--help"]
            done = subprocess.run(
                command, env=program.environment, capture_output=True, text=True, timeout=30, check=False
            )
            site_options = parse_help(done.stdout)
        return read_command_line(words, site_options | OPTIONS)


def _requested_environment(line: CommandLine, script: bytes) -> EnvironmentRequest | None:
    """Return the requested environment: of the command line, else of $BERTH_ENV, else of the script; or None.

    `--at` of the command line has precedence over the script's, and belongs to any of the three.
    """
    in_script = _of_script(script)
    of = line.value("env")
    if of is None:
        of = os.environ.get(VARIABLE) or in_script.value("env") or ""
    if not of:
        return None
    at = line.value("at")
    if at is None and of == in_script.value("env"):
        at = in_script.value("at")
    return _request(of, at)


def _of_script(script: bytes) -> CommandLine:
    """Return the last line of Berth's in a script, as a command line."""
    from slurm.commandline import directive_words, read_command_line
    from slurm.sbatch import OptionError

    found = read_command_line((), {})
    try:
        for number, words in directive_words(DIRECTIVE, script):
            line = read_command_line(words, {})
            if line.script or line.has("json"):
                raise OptionError(f"line {number} of the script: {DIRECTIVE} takes --env and --at, and nothing else")
            found = line
    except OptionError as error:
        raise InvalidInputError(str(error), hint=f"`{DIRECTIVE} --env SESSION` or `--env PROFILE@VERSION`") from error
    return found


def _only_prints(line: CommandLine) -> bool:
    return any(given.name in {"help", "usage", "version"} for given in line.options)


def _request(of: str, at: str | None) -> EnvironmentRequest:
    from pydantic import ValidationError

    from broker.schema.environments import EnvironmentRequest

    try:
        return EnvironmentRequest(of=of, at=at)
    except ValidationError as error:
        if error.errors()[0]["loc"] == ("at",):
            raise InvalidInputError(
                f"{at!r} cannot be a snapshot",
                hint=f"--at takes a number or a label; `berth snapshots {of}` lists them",
            ) from error
        raise InvalidInputError(
            f"{of!r} can be neither a session nor a profile",
            hint="--env takes SESSION, PROFILE or PROFILE@VERSION; a profile may begin with own/ or site/",
        ) from error


def _find_script(name: str) -> Path | None:
    """Return the path at which sbatch finds a script: in the current directory, or else on PATH."""
    if is_file(name):
        return Path(name)
    found = shutil.which(name, mode=os.R_OK) if "/" not in name else None
    return Path(found) if found else None


def _note(environment: EnvironmentView, job_id: int) -> None:
    """Write the job's id to its environment, for `berth fetch` and the next gc."""
    path = Path(environment.directory) / "run/job"
    draft = path.with_suffix(".new")  # an interrupt must not leave a partial id
    with _umask(0o077):
        draft.write_text(f"{job_id}\n", encoding="ascii")
    draft.rename(path)


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    """Use this umask for files. The user's umask is for the job, and could make Berth's files unreadable."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
