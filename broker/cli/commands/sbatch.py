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
from broker.cli.params import EnvironmentName
from broker.cli.progress import ProgressLine
from broker.cli.sbatch_program import SbatchProgram, is_called_by_sbatch_script
from broker.cli.working_directory import WorkingDirectory
from broker.errors import BerthError, InvalidInputError
from broker.format import format_duration, format_size
from profiles.userfile import is_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from broker.schema.environments import EnvironmentRequest, EnvironmentView
    from slurm.commandline import CommandLine
    from slurm.sbatch import Option

DIRECTIVE = "#BERTH"
VARIABLE = "BERTH_ENV"
MARK = b"#### berth: the script itself follows; the node cuts it off here"
"""The line before the user's script; batch.sh searches for it."""
WRAPPED = "#!/bin/sh\n\n# This script was created by sbatch --wrap.\n\n{}\n"
"""The script that sbatch creates for --wrap."""
SUBMITTED = b"Submitted batch job "


class _AsTheyAre(click.Command):
    """A command that passes all arguments to sbatch, also `--` and `--help`; the shell completes sbatch's options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = tuple(args)
        return []

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from slurm.sbatch import OPTIONS

        del ctx
        return [CompletionItem(f"--{name}") for name in ["env", *OPTIONS] if f"--{name}".startswith(incomplete)]


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
@click.argument("words", nargs=-1, type=_Script(), metavar="[SBATCH OPTIONS]... [SCRIPT [ARGS]...]")
@pass_invocation
@click.pass_context
def sbatch(ctx: click.Context, invocation: Invocation, words: tuple[str, ...]) -> None:
    """Submit a batch job, optionally in an environment.

    All arguments are passed to the site's sbatch; output and exit code are those of sbatch, so
    `alias sbatch='berth sbatch'` breaks no script. One option is added:

    \b
      berth sbatch --env dev job.sh           the session dev as it is now
      berth sbatch --env triton-xpu@3 job.sh  a profile, with an empty home

    The script runs with the session's image and packages, in its own copy of the session's home; the session keeps
    running. `#BERTH --env dev` in the script and the variable BERTH_ENV have the same effect; --env= selects none.
    `berth fetch JOBID` copies the job's output, `berth promote JOBID NAME` creates a session from its files.
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    if is_called_by_sbatch_script(os.environ):
        _become(words)  # the first call created the environment, and the wrapper script has the options
    submission = Submission.read(words)
    if submission.prints_help:
        output.write(f"{ctx.get_help()}\n\n")  # sbatch's own help follows
        submission.become_sbatch()
    if submission.environment:
        sys.exit(submission.submit_into(invocation, submission.environment))
    submission.become_sbatch()


class Submission:
    """A call of sbatch: its arguments, the source of the script, and the environment."""

    def __init__(self, line: CommandLine, script: Path | None, text: bytes | None, environment: str) -> None:
        self._line = line
        self._script = script
        self._text = text
        """The script; None if sbatch would not find one."""
        self.environment = environment
        """A session or a profile; empty without an environment."""

    @classmethod
    def read(cls, words: Sequence[str]) -> Submission:
        from slurm.commandline import CommandLineError

        try:
            line = _read(words)
        except CommandLineError as error:  # sbatch reports it
            return cls(error.line, None, None, "")
        script, text = None, None
        if (wrapped := line.value("wrap")) is not None:
            text = WRAPPED.format(wrapped).encode(errors="surrogateescape")
        elif line.script:
            script = _found(line.script[0])
            with contextlib.suppress(OSError):
                text = script.read_bytes() if script is not None else None
        elif not _only_prints(line):
            text = sys.stdin.buffer.read()
        return cls(line, script, text, _environment(line, text or b""))

    @property
    def prints_help(self) -> bool:
        """Whether sbatch would print its help, and submit nothing."""
        return self._line.has("help")

    def become_sbatch(self) -> NoReturn:
        """Replace this process by sbatch. A script from standard input is made available to it again."""
        if self._text is not None and self._script is None and self._line.value("wrap") is None:
            again = os.memfd_create("script")
            os.write(again, self._text)
            os.lseek(again, 0, os.SEEK_SET)
            os.dup2(again, 0)
        _become([*self._line.without("env"), *self._line.script])

    def submit_into(self, invocation: Invocation, name: str) -> int:
        """Create the environment and run sbatch; return its exit code."""
        text = self._text
        if text is None or not text.startswith(b"#!"):
            self.become_sbatch()  # sbatch reports the error
        SbatchProgram.find(os.environ)  # before the copy, which may take long: is there an sbatch?
        environment = _make_environment(invocation, name)
        kept = False
        try:
            exported = ExportedEnvironment.of(self._line, text, os.environ)
            words, stdin = self._words_and_input(environment, carrier(text, environment, exported.explicit))
            code, job_id = _run_sbatch(words, stdin, lambda job: _note(environment, job))
            if job_id is not None and not self._line.has("quiet"):
                directory = WorkingDirectory.of(self._line, text)
                remarks = directory.remarks(environment, job_id)
                for remark in [*remarks, *exported.remarks(os.environ, environment.variables)]:
                    output.print_note(f"berth: {remark}")
            kept = job_id is not None or self._may_have_submitted(code)
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
        words = self._line.without("env")
        if self._line.has("wrap"):
            return [f"--wrap={os.fsdecode(text)}", *self._line.without("env", "wrap"), *self._line.script], None
        if self._script is None:
            return words, text
        directory = Path(environment.directory) / "run/script"
        with _umask(0o077):
            directory.mkdir(exist_ok=True)
            (directory / self._script.name).write_bytes(text)  # the file's name is the job's default name
            directory.with_name("command").write_bytes(os.fsencode(self._script.absolute()))  # for scripts that read it
        return [*words, str(directory / self._script.name), *self._line.script[1:]], None


def _make_environment(invocation: Invocation, name: str) -> EnvironmentView:
    """Create the environment, with progress on stderr. InterruptedWaitError after Ctrl-C: the controller removes it."""
    request, amounts = _request(name), WorkAmounts(invocation, name)
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


def _environment(line: CommandLine, script: bytes) -> str:
    """Return the requested environment: of the command line, else of $BERTH_ENV, else of the script."""
    if (given := line.value("env")) is not None:
        return given
    return os.environ.get(VARIABLE) or _of_script(script)


def _of_script(script: bytes) -> str:
    from slurm.commandline import directive_words, read_command_line
    from slurm.sbatch import OptionError

    found = ""
    try:
        for number, words in directive_words(DIRECTIVE, script):
            line = read_command_line(words, {})
            if line.script:
                raise OptionError(f"line {number} of the script: {DIRECTIVE} takes --env, and nothing else")
            found = line.value("env") or ""
    except OptionError as error:
        raise InvalidInputError(str(error), hint=f"`{DIRECTIVE} --env SESSION` or `--env PROFILE@VERSION`") from error
    return found


def _only_prints(line: CommandLine) -> bool:
    return any(given.name in {"help", "usage", "version"} for given in line.options)


def _request(name: str) -> EnvironmentRequest:
    from pydantic import ValidationError

    from broker.schema.environments import EnvironmentRequest

    try:
        return EnvironmentRequest(of=name)
    except ValidationError as error:
        raise InvalidInputError(
            f"{name!r} can be neither a session nor a profile",
            hint="--env takes SESSION, PROFILE or PROFILE@VERSION; a profile may begin with own/ or site/",
        ) from error


def _found(name: str) -> Path | None:
    """Return the path at which sbatch finds a script: in the current directory, or else on PATH."""
    if is_file(name):
        return Path(name)
    found = shutil.which(name, mode=os.R_OK) if "/" not in name else None
    return Path(found) if found else None


def _become(words: Sequence[str]) -> NoReturn:
    """Replace this process by the site's sbatch."""
    program = SbatchProgram.find(os.environ)
    try:
        os.execve(program.path, ["sbatch", *words], program.environment)  # noqa: S606 - without a shell
    except OSError as error:
        raise _cannot_run(error) from error


def _run_sbatch(words: Sequence[str], stdin: bytes | None, note: Callable[[int], None]) -> tuple[int, int | None]:
    """Run sbatch and pass its output on; return its exit code, and the job's id if it prints one.

    `note` is called with the id at once.
    """
    program = SbatchProgram.find(os.environ)
    try:
        process = subprocess.Popen(
            ["sbatch", *words],
            executable=program.path,
            env=program.environment,
            stdin=None if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    except OSError as error:
        raise _cannot_run(error) from error
    assert process.stdout is not None
    printed, job_id = b"", None
    with process:
        if stdin is not None:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(stdin)
            process.stdin.close()
        while part := os.read(process.stdout.fileno(), 65536):
            printed += part
            output.write_bytes(part)
            if job_id is None and (job_id := _job_id(printed)) is not None:
                note(job_id)
    return process.returncode, job_id


def _job_id(printed: bytes) -> int | None:
    """Return the id in `Submitted batch job 42 on cluster x`, or with --parsable in `42;x`."""
    lines = printed.rpartition(b"\n")[0].splitlines()
    word = lines[-1].removeprefix(SUBMITTED).split(b";")[0].split(b" ")[0] if lines else b""
    return int(word) if word.isdigit() else None


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


def _cannot_run(error: OSError) -> BerthError:
    return BerthError(f"cannot run sbatch: {error.strerror}", hint="load Slurm's commands, or use a login node")
