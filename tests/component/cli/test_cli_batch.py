"""`berth sbatch` and `start --from-script` against a scripted controller and a sbatch that tells what it was given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from broker.cli.app import berth
from broker.cli.sbatch_program import SbatchProgram
from broker.errors import ExitCode
from broker.schema.environments import EnvironmentView
from broker.schema.sessions import SessionState
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import run
from tests.fakes.controller import ScriptedController, view
from tests.fakes.recording_sbatch import SCRIPT, given, install_recording_sbatch, sbatch
from tests.lab_cluster import wait_for

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def controller(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedController:
    install_recording_sbatch(tmp_path, monkeypatch)
    return controller


def made(controller: ScriptedController) -> Path:
    return controller.directory / "environment"


def test_missing_sbatch_is_reported_before_the_copy(controller: ScriptedController, tmp_path: Path) -> None:
    (tmp_path / "bin/sbatch").unlink()
    done = sbatch("--env", "dev", "job.sh")
    assert (done.returncode, "cannot run sbatch: not found" in done.stderr) == (1, True), done.stderr
    assert not made(controller).exists()
    assert not [path for _, path, _ in controller.asked if "environments" in path]


def test_the_carrier_has_the_scripts_head_line_for_line_and_all_of_it(
    controller: ScriptedController, tmp_path: Path
) -> None:
    done = sbatch("-J", "x", "--env", "dev", "-D", "/elsewhere", "job.sh", "a", "two words")
    dropped = (
        "berth: the job does not get PYTHONPATH of the login node; "
        "to pass the present value, use --export=ALL,PYTHONPATH"
    )
    said = f"sbatch: what it says\n{dropped}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "Submitted batch job 42\n", said)
    words, _ = given(tmp_path)
    place = made(controller) / "run/script/job.sh"
    assert words == f"[-J][x][-D][/elsewhere][{place}][a][two words]"
    lines = place.read_text().splitlines(keepends=True)
    assert lines[0] == "#!/bin/bash\n"
    assert lines[1:5] == SCRIPT.splitlines(keepends=True)[1:5]
    assert lines[6] == f"""exec /bin/bash {made(controller)}/run/batch.sh run '' "$0" "$@"\n"""
    assert "".join(lines[8:]) == SCRIPT
    assert (made(controller) / "run/job").read_text() == "42\n"
    assert [environment.of for environment in controller.environments] == ["dev"]


def test_a_script_from_standard_input_and_from_wrap(controller: ScriptedController, tmp_path: Path) -> None:
    assert sbatch("--env=dev", stdin=SCRIPT).returncode == 0
    assert not (tmp_path / "words").exists()
    assert (tmp_path / "script").read_text().endswith(SCRIPT)
    controller.directory.joinpath("environment/run/job").unlink()
    controller.directory.joinpath("environment/run").rmdir()
    controller.directory.joinpath("environment").rmdir()
    assert sbatch("-n1", "--wrap", "echo 'a  b'", "--env=dev").returncode == 0
    words = (tmp_path / "words").read_text()
    assert words.startswith("[--wrap=#!/bin/bash\n")
    assert words.endswith("#!/bin/sh\n\n# This script was created by sbatch --wrap.\n\necho 'a  b'\n][-n1]")


@pytest.mark.parametrize(
    ("words", "variable", "directive", "asked"),
    [
        (("--env", "a"), "b", "c", "a"),
        ((), "b", "c", "b"),
        ((), "", "c", "c"),
        (("--env=",), "b", "c", None),
        ((), "", "", None),
    ],
)
def test_which_environment_counts(  # noqa: PLR0917 - fixtures and cases
    controller: ScriptedController,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
    variable: str,
    directive: str,
    asked: str | None,
) -> None:
    monkeypatch.setenv("BERTH_ENV", variable)
    if directive:
        (tmp_path / "job.sh").write_text(SCRIPT.replace("# more", f"#BERTH --env {directive}"))
    assert sbatch(*words, "job.sh").returncode == 0
    assert [environment.of for environment in controller.environments] == ([asked] if asked else [])
    assert given(tmp_path)[0].endswith("job.sh]")


@pytest.mark.parametrize(
    ("says", "code", "words", "kept"),
    [
        ("", "1", (), False),
        ("42", "0", ("--parsable",), True),
        ("42;cluster", "0", ("--parsable",), True),
        ("Submitted batch job 42 on cluster x", "0", (), True),
        ("", "0", ("--test-only",), False),
        ("", "0", ("--quiet",), True),
        ("", "7", ("--quiet", "--wait"), True),
        ("Submitted batch job 42", "7", ("--wait",), True),
    ],
)
def test_an_environment_stays_only_if_there_may_be_a_job(
    controller: ScriptedController,
    monkeypatch: pytest.MonkeyPatch,
    says: str,
    code: str,
    words: tuple[str, ...],
    *,
    kept: bool,
) -> None:
    monkeypatch.setenv("SAYS", says)
    monkeypatch.setenv("CODE", code)
    done = sbatch(*words, "--env", "dev", "job.sh")
    assert (done.returncode, done.stdout.strip()) == (int(code), says)
    assert bool(controller.environments) is kept


def test_what_is_no_script_and_no_option_is_sbatchs_to_refuse(controller: ScriptedController, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("true\n")
    for words in (("text",), ("--no-such", "job.sh"), ("not-here",)):
        sbatch("--env", "dev", *words)
        assert given(tmp_path)[0].removeprefix("[--help]") == "".join(f"[{word}]" for word in words)
        (tmp_path / "words").unlink()
    assert not [path for _, path, _ in controller.asked if path == "/v1/environments"]


CLOSED = f"/{'x' * 300}"
"""A directory that even root cannot read: its name is too long."""


def test_a_place_that_may_not_be_looked_at_has_neither_sbatch_nor_a_script(
    controller: ScriptedController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{CLOSED}:{os.environ['PATH']}")
    done = sbatch(f"{CLOSED}/job.sh")
    assert (done.returncode, done.stdout) == (0, "Submitted batch job 42\n"), done.stderr
    assert given(tmp_path)[0] == f"[{CLOSED}/job.sh]"
    assert not controller.environments


def test_what_can_be_no_environment_is_refused(controller: ScriptedController, tmp_path: Path) -> None:
    for name in ("My Session", "../x", "a@b@c", "@1"):
        done = sbatch("--env", name, "job.sh")
        assert (done.returncode, "can be neither a session nor a profile" in done.stderr) == (ExitCode.USAGE, True)
    assert not controller.environments
    assert not (tmp_path / "words").exists()


def test_interrupted_it_keeps_what_a_job_may_need(controller: ScriptedController, tmp_path: Path) -> None:
    """As with --wait, of a job that is in the queue."""
    waiting = '#!/bin/sh\necho "Submitted batch job 42"\ntouch "$HOME/submitted"\nexec sleep 60\n'
    (tmp_path / "bin/sbatch").write_text(waiting)
    command = [sys.executable, "-m", "broker.cli", "sbatch", "--wait", "--env", "dev", "job.sh"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"Submitted batch job 42\n"
        wait_for((made(controller) / "run/job").exists, what="the job to be noted")
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == ExitCode.INTERRUPTED
    assert b"interrupted; sbatch may have submitted the job already" in said
    assert controller.environments
    assert (made(controller) / "run/job").read_text() == "42\n"


@pytest.mark.parametrize("line", ["#BERTH --partition x", "#BERTH dev", "#BERTH --env", "#BERTH --env 'x"])
def test_a_wrong_directive_is_refused(controller: ScriptedController, tmp_path: Path, line: str) -> None:
    assert controller
    (tmp_path / "job.sh").write_text(f"#!/bin/sh\n{line}\ntrue\n")
    done = sbatch("job.sh")
    assert done.returncode == ExitCode.USAGE
    assert "`#BERTH --env SESSION`" in done.stderr
    assert not (tmp_path / "words").exists()


WRAPPER = f"""#!/bin/sh
echo called >>"$HOME/calls"
exec {sys.executable} -m broker.cli sbatch "$@"
"""


@pytest.fixture
def wrapper(controller: ScriptedController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script called sbatch, first on PATH, that runs `berth sbatch`; its directory."""
    assert controller
    place = tmp_path / "wrapper"
    place.mkdir()
    (place / "sbatch").write_text(WRAPPER)
    (place / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    return place


@pytest.mark.usefixtures("wrapper")
@pytest.mark.parametrize("words", [("job.sh",), ("--env", "dev", "job.sh")])
def test_a_script_that_calls_berth_sbatch_is_run_once(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = sbatch(*words)
    assert (done.returncode, done.stdout) == (0, "Submitted batch job 42\n"), done.stderr
    assert (tmp_path / "calls").read_text() == "called\n"
    assert given(tmp_path)[0].startswith("[")


@pytest.mark.usefixtures("wrapper")
def test_a_script_that_calls_berth_sbatch_gets_standard_input(tmp_path: Path) -> None:
    assert sbatch("-n1", stdin=SCRIPT).returncode == 0
    assert given(tmp_path) == ("[-n1]", SCRIPT)


def test_only_scripts_that_call_berth_sbatch_is_said(wrapper: Path, tmp_path: Path) -> None:
    (tmp_path / "bin/sbatch").unlink()
    done = sbatch("job.sh")
    assert done.returncode == ExitCode.FAILED
    assert f"{wrapper}/sbatch runs `berth sbatch` again" in done.stderr
    assert (tmp_path / "calls").read_text() == "called\n"


def test_a_job_finds_the_script_again_that_submitted_it(wrapper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_SBATCH_SCRIPTS", f":{wrapper}/sbatch")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert SbatchProgram.find(os.environ).path == f"{wrapper}/sbatch"


def test_from_script_makes_options_and_names_what_it_leaves_out(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    controller.sessions["dev"] = view("dev", SessionState.SUBMITTING)
    (tmp_path / "job.sh").write_text("#!/bin/sh\n#SBATCH -t 60 --mem=2G -o out\n#SBATCH --gres=gpu:1 -p slow\ntrue\n")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "90")
    monkeypatch.setenv("SBATCH_PARTITION", "gpu")
    result = run("start", "dev", "--profile", "base", "--from-script", "job.sh", "--no-wait", "-p", "fast")
    assert result.exit_code == 0, result.output
    assert "job.sh: --output is left out: a session's log is kept in its own folder" in result.output
    body = controller.asked[0][2]
    assert body["options"] == ["--mem=2G", "--gres=gpu:1", "--time=90", "--partition=fast"]
    assert "defaults" not in body
    run("start", "dev", "--profile", "base", "--no-wait", "-p", "fast")
    body = [body for method, _, body in controller.asked if method == "POST"][-1]
    assert (body["options"], sorted(body["defaults"])) == (["--partition=fast"], ["--partition=gpu", "--time=90"])


def test_a_script_that_cannot_be_read_starts_nothing(controller: ScriptedController, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("#!/bin/sh\n#SBATCH --no-such\n")
    result = run("start", "dev", "--profile", "base", "--from-script", "job.sh")
    assert result.exit_code == ExitCode.USAGE
    assert "line 2 of the script" in result.output
    assert not controller.asked


def completed(*words: str) -> set[str]:
    """Return the completions of the last of these words."""
    return {item.value for item in ShellComplete(berth, {}, "berth", "_").get_completions(list(words[:-1]), words[-1])}


def test_the_shell_completes_options_environments_and_files(controller: ScriptedController) -> None:
    controller.sessions["dev"] = view("dev")
    assert completed("sbatch", "--gr") == {"--gres", "--gres-flags"}
    assert completed("sbatch", "-n", "4", "--en") == {"--env"}
    assert completed("sbatch", "--env", "d") == {"dev"}
    assert completed("sbatch", "-Q", "--env=d") == {"dev"}
    assert completed("sbatch", "-Q", "jo") == {"jo"}  # a file: the shell's own business
    controller.environments = [EnvironmentView.model_validate(ENVIRONMENT)]
    assert completed("fetch", "4") == {"42"}
    assert completed("promote", "") == {"42"}


ENVIRONMENT = {
    "id": "01e",
    "of": "dev",
    "profile": "base",
    "version": "1",
    "directory": "/d",
    "created_at": 1.0,
    "used_at": 1.0,
    "jobs": [{"key": "42", "top": "/t", "node": "c1", "work": "/w", "inside": "/home/alice", "running": False}],
}
