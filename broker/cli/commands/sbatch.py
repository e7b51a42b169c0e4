"""`berth sbatch`: run the site's own sbatch; with `--env` the script runs in an environment of Berth.

Without an environment this process becomes sbatch. With one, sbatch gets a carrier: the script's own head, so that
sbatch reads its `#SBATCH` lines itself, then one command that opens the environment on the node, then the whole script.
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
from broker.cli.context import Invocation, pass_invocation
from broker.cli.exported import ExportedEnvironment
from broker.cli.params import EnvironmentName
from broker.cli.sbatch_program import SbatchProgram, is_called_by_sbatch_script
from broker.cli.working_directory import WorkingDirectory
from broker.errors import BerthError, InvalidInputError
from profiles.userfile import is_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from broker.schema.environments import EnvironmentRequest, EnvironmentView
    from slurm.commandline import CommandLine
    from slurm.sbatch import Option

DIRECTIVE = "#BERTH"
VARIABLE = "BERTH_ENV"
MARK = b"#### berth: the script itself follows; the node cuts it off here"
"""A line; batch.sh looks for it."""
WRAPPED = "#!/bin/sh\n\n# This script was created by sbatch --wrap.\n\n{}\n"
"""The script that sbatch makes of --wrap."""
SUBMITTED = b"Submitted batch job "


class _AsTheyAre(click.Command):
    """Leaves every word to sbatch, `--` and `--help` too; the shell completes sbatch's options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = tuple(args)
        return []

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from slurm.sbatch import OPTIONS

        del ctx
        return [CompletionItem(f"--{name}") for name in ["env", *OPTIONS] if f"--{name}".startswith(incomplete)]


class _Script(click.ParamType[str]):
    """A word that the shell completes as a file."""

    name = "script"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(incomplete, type="file")]


@click.command(cls=_AsTheyAre, add_help_option=False)
@click.option("--env", type=EnvironmentName(), metavar="SESSION|PROFILE[@VERSION]", help="Run the script in this.")
@click.argument("words", nargs=-1, type=_Script(), metavar="[SBATCH OPTIONS]... [SCRIPT [ARGS]...]")
@pass_invocation
def sbatch(invocation: Invocation, words: tuple[str, ...]) -> None:
    """Submit a batch job, with --env into an environment.

    Everything that the site's sbatch takes is passed on to it, and its answer and exit code are sbatch's own;
    `alias sbatch='berth sbatch'` breaks no script. One option is added:

    \b
      berth sbatch --env dev job.sh          the session dev as it is now
      berth sbatch --env triton-xpu@1 job.sh a profile, with an empty home

    The script runs with the image and the packages of the session, in a copy of its home that belongs to the job; the
    session goes on meanwhile. `#BERTH --env dev` in the script and BERTH_ENV say the same; --env= says none.
    `berth fetch JOBID` brings back what the job wrote, `berth promote JOBID NAME` makes a session of it.
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    if is_called_by_sbatch_script(os.environ):
        _become(words)  # the environment, if any, is made already, and what is asked for stands in the carrier too
    submission = Submission.read(words)
    if submission.environment:
        sys.exit(submission.submit_into(invocation, submission.environment))
    submission.become_sbatch()


class Submission:
    """What was asked of sbatch: its words, where the script comes from, and the environment."""

    def __init__(self, line: CommandLine, script: Path | None, text: bytes | None, environment: str) -> None:
        self._line = line
        self._script = script
        self._text = text
        """The script; None if sbatch would find none."""
        self.environment = environment
        """A session or a profile; empty for a job without one."""

    @classmethod
    def read(cls, words: Sequence[str]) -> Submission:
        from slurm.commandline import UnreadableError

        try:
            line = _read(words)
        except UnreadableError as error:  # of which sbatch tells in its own words
            return cls(error.line, None, None, "")
        script, text = None, None
        if (wrapped := line.value("wrap")) is not None:
            text = WRAPPED.format(wrapped).encode(errors="surrogateescape")
        elif line.script:
            script = _found(line.script[0])
            with contextlib.suppress(OSError):
                text = script.read_bytes() if script is not None else None
        elif not _only_tells(line):
            text = sys.stdin.buffer.read()
        return cls(line, script, text, _environment(line, text or b""))

    def become_sbatch(self) -> NoReturn:
        """Replace this process by sbatch; a script that was read from standard input is there for it once more."""
        if self._text is not None and self._script is None and self._line.value("wrap") is None:
            again = os.memfd_create("script")
            os.write(again, self._text)
            os.lseek(again, 0, os.SEEK_SET)
            os.dup2(again, 0)
        _become([*self._line.without("env"), *self._line.script])

    def submit_into(self, invocation: Invocation, name: str) -> int:
        """Have the environment made and sbatch called; its exit code."""
        text = self._text
        if text is None or not text.startswith(b"#!"):
            self.become_sbatch()  # which says what is wrong with it
        environment = invocation.client.make_environment(_request(name))
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
            kept = True  # a job may be there; if not, the environment goes with the next gc
            raise
        finally:
            if not kept:
                with contextlib.suppress(BerthError):
                    invocation.client.discard_environment(environment.id)
        return code

    def _may_have_submitted(self, code: int) -> bool:
        """Whether a job may be there of which sbatch has not told the id, as with --quiet: it tells of itself later."""
        if self._line.has("test-only"):
            return False
        return code == 0 or (self._line.has("quiet") and self._line.has("wait"))

    def _words_and_input(self, environment: EnvironmentView, text: bytes) -> tuple[list[str], bytes | None]:
        """What sbatch is called with to take this carrier in place of the script, from where the script came."""
        words = self._line.without("env")
        if self._line.has("wrap"):
            return [f"--wrap={os.fsdecode(text)}", *self._line.without("env", "wrap"), *self._line.script], None
        if self._script is None:
            return words, text
        place = Path(environment.directory) / "run/script"
        with _umask(0o077):
            place.mkdir(exist_ok=True)
            (place / self._script.name).write_bytes(text)  # its name is the job's, unless the user says another
            place.with_name("command").write_bytes(os.fsencode(self._script.absolute()))  # for scripts that look for it
        return [*words, str(place / self._script.name), *self._line.script[1:]], None


def carrier(script: bytes, environment: EnvironmentView, explicit: Sequence[str]) -> bytes:
    """The script that sbatch gets: the head of the user's own, line for line, then what runs the rest inside.

    The variables that are named `explicit` come before the profile's.
    """
    from slurm.commandline import head

    lines = [b"#!/bin/bash", *head(script)[1:]]
    opener = shlex.join(["/bin/bash", f"{environment.directory}/run/batch.sh", "run", ",".join(explicit)])
    said = f"# What follows the last line of this part runs in {environment.of}, by Berth (berth-sbatch(1))."
    lines += [os.fsencode(said), os.fsencode(f'exec {opener} "$0" "$@"'), MARK, b""]
    return b"\n".join(lines) + script


def _read(words: Sequence[str]) -> CommandLine:
    """Take sbatch's words apart, with what the site's plugins have added to its options."""
    from slurm.commandline import UnreadableError, options_of_help, read_command_line
    from slurm.sbatch import OPTIONS

    try:
        return read_command_line(words)
    except UnreadableError:
        told: dict[str, Option] = {}
        with contextlib.suppress(OSError, subprocess.TimeoutExpired, BerthError):
            program = SbatchProgram.find(os.environ)
            command = [program.path, "--help"]
            shown = subprocess.run(
                command, env=program.environment, capture_output=True, text=True, timeout=30, check=False
            )
            told = options_of_help(shown.stdout)
        return read_command_line(words, told | OPTIONS)


def _environment(line: CommandLine, script: bytes) -> str:
    """The environment that is asked for: on the command line, in the environment, in the script, in this order."""
    if (given := line.value("env")) is not None:
        return given
    return os.environ.get(VARIABLE) or _of_script(script)


def _of_script(script: bytes) -> str:
    from slurm.commandline import read_command_line, words_of
    from slurm.sbatch import OptionError

    found = ""
    try:
        for number, words in words_of(DIRECTIVE, script):
            line = read_command_line(words, {})
            if line.script:
                raise OptionError(f"line {number} of the script: {DIRECTIVE} takes --env, and nothing else")
            found = line.value("env") or ""
    except OptionError as error:
        raise InvalidInputError(str(error), hint=f"`{DIRECTIVE} --env SESSION` or `--env PROFILE@VERSION`") from error
    return found


def _only_tells(line: CommandLine) -> bool:
    return any(given.name in {"help", "usage", "version"} for given in line.options)


def _request(name: str) -> EnvironmentRequest:
    from pydantic import ValidationError

    from broker.schema.environments import EnvironmentRequest

    try:
        return EnvironmentRequest(of=name)
    except ValidationError as error:
        raise InvalidInputError(
            f"{name!r} can be neither a session nor a profile", hint="--env takes SESSION, PROFILE or PROFILE@VERSION"
        ) from error


def _found(name: str) -> Path | None:
    """Where sbatch finds a script: here, or else on PATH."""
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
    """Run sbatch with its own standard error, and pass on what it says as it says it; its exit code, and the job's id
    if it says one, which is noted at once.
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
    said, job_id = b"", None
    with process:
        if stdin is not None:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(stdin)
            process.stdin.close()
        while part := os.read(process.stdout.fileno(), 65536):
            said += part
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
            if job_id is None and (job_id := _job_id(said)) is not None:
                note(job_id)
    return process.returncode, job_id


def _job_id(said: bytes) -> int | None:
    """The id in `Submitted batch job 42 on cluster x`, or with --parsable in `42;x`."""
    lines = said.rpartition(b"\n")[0].splitlines()
    word = lines[-1].removeprefix(SUBMITTED).split(b";")[0].split(b" ")[0] if lines else b""
    return int(word) if word.isdigit() else None


def _note(environment: EnvironmentView, job_id: int) -> None:
    """Leave the job's id with its environment, where `berth fetch` and the next gc look for it."""
    noted = Path(environment.directory) / "run/job"
    fresh = noted.with_suffix(".new")  # whoever interrupts us must not leave half a word
    with _umask(0o077):
        fresh.write_text(f"{job_id}\n", encoding="ascii")
    fresh.rename(noted)


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    """Make files with this umask: the user's is the job's, and may keep us from our own."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _cannot_run(error: OSError) -> BerthError:
    return BerthError(f"cannot run sbatch: {error.strerror}", hint="load Slurm's commands, or go to a login node")
