"""`berth sbatch`, `fetch` and `promote` against a scripted controller and a sbatch that tells what it was given."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.shell_completion import ShellComplete

from broker.cli.app import berth
from broker.cli.fetch_tree import fetch_tree
from broker.cli.sbatch_program import SbatchProgram
from broker.errors import ExitCode
from broker.schema.environments import BatchJob, EnvironmentView
from broker.schema.sessions import SessionState
from profiles.removal import remove_tree
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import CREATED, ScriptedController, operation, view
from tests.lab_cluster import wait_for
from tests.volumes.deep import make_deep

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[3]
SBATCH = """#!/bin/sh
for word; do printf '[%s]' "$word" >>"$HOME/words"; last=$word; done
if [ -f "$last" ]; then cat "$last" >"$HOME/script"; else cat >"$HOME/script"; fi
echo "sbatch: what it says" >&2
[ -z "$SAYS" ] || echo "$SAYS"
exit "${CODE:-0}"
"""
SCRIPT = "#!/usr/bin/env python3\n#SBATCH -n 2\n\n# more\n#SBATCH --time=5\nprint('x')\n#SBATCH --late\n"


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin/sbatch"
        program.write_text(SBATCH)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
        monkeypatch.setenv("SAYS", "Submitted batch job 42")
        monkeypatch.delenv("BERTH_ENV", raising=False)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "job.sh").write_text(SCRIPT)
        yield running


def sbatch(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """In a process of its own, which may become sbatch."""
    command = [sys.executable, "-m", "broker.cli", "sbatch", *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def given(tmp_path: Path) -> tuple[str, str]:
    """The words and the script that sbatch got."""
    return (tmp_path / "words").read_text(), (tmp_path / "script").read_text()


def made(controller: ScriptedController) -> Path:
    return controller.directory / "environment"


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
"""A directory that nobody can look into: nothing is closed to root, but a name that is too long is."""


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
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == ExitCode.INTERRUPTED
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


def environment(tmp_path: Path, *keys: str) -> EnvironmentView:
    jobs = []
    for key in keys:
        top = tmp_path / "tops" / key
        (top / "work/sub").mkdir(parents=True)
        (top / "work/result").write_text(f"of {key}\n")
        (top / "work/sub/more").write_text(key)
        (top / "elsewhere").write_text("x")
        work = "" if "@" in key else str(tmp_path / "submitted")
        jobs.append(BatchJob(key=key, top=str(top), node="c1", work=work, inside="/home/alice/work", running=False))
    told = {"profile": "base", "version": "1", "directory": "/d", "created_at": CREATED, "used_at": CREATED}
    return EnvironmentView(id="01e", of="dev", job_id=42, jobs=jobs, **told)  # type: ignore[arg-type]  # as JSON has it


def test_fetch_brings_what_was_written_where_it_was_submitted(controller: ScriptedController, tmp_path: Path) -> None:
    controller.environments = [environment(tmp_path, "42")]
    result = run("fetch", "42", "--json")
    assert result.exit_code == 0, result.output
    place = tmp_path / "submitted"
    assert json.loads(result.output) == {"copied": [f"{place}/result", f"{place}/sub/more"], "left": []}
    assert json.loads(run("fetch", "42", "--json").output) == {"copied": [], "left": []}
    (place / "result").write_text("mine")
    clash = run("fetch", "42")
    assert clash.exit_code == ExitCode.CONFLICT
    assert "--force replaces these" in clash.output
    assert (place / "result").read_text() == "mine"
    assert run("fetch", "42", "--force").exit_code == 0
    assert (place / "result").read_text() == "of 42\n"
    run("fetch", "42", "--all", "--to", str(tmp_path / "all"))
    assert (tmp_path / "all/elsewhere").read_text() == "x"


def test_a_job_stands_for_its_tasks_and_its_nodes(controller: ScriptedController, tmp_path: Path) -> None:
    controller.environments = [environment(tmp_path, "42_1", "42_2", "42_2@c2.0"), environment(tmp_path, "421")]
    fetched = json.loads(run("fetch", "42_2", "--to", str(tmp_path / "a"), "--force", "--json").output)
    assert [Path(path).name for path in fetched["copied"]] == ["result", "more", "result", "more"]
    assert (tmp_path / "a/result").read_text() == "of 42_2@c2.0\n"
    assert len(json.loads(run("fetch", "42", "--to", str(tmp_path / "b"), "--force", "--json").output)["copied"]) == 6
    for words, says in [(("fetch", "7"), "there is no environment of job 7"), (("fetch", "42_9"), "has not begun yet")]:
        result = run(*words)
        assert result.exit_code == ExitCode.NOT_FOUND
        assert says in result.output
    assert run("fetch", "x7").exit_code == ExitCode.USAGE


def test_promote_names_one_job(controller: ScriptedController, tmp_path: Path) -> None:
    controller.environments = [environment(tmp_path, "42_1", "42_2")]
    controller.script["debug"] += [
        view("debug", SessionState.CHANGING, operation=operation("promote")),
        view("debug", SessionState.STOPPED, operation=operation("promote", "done")),
    ]
    result = run("promote", "42_1", "debug")
    assert result.exit_code == 0, result.output
    assert "debug was created; `berth start debug` starts it" in result.output
    method, path, body = next(each for each in controller.asked if each[1].endswith("/promote"))
    assert (method, path, body) == ("POST", "/v1/environments/01e/promote", {"name": "debug", "job": "42_1"})
    whole = run("promote", "42", "debug")
    assert whole.exit_code == ExitCode.NOT_FOUND
    assert "`berth promote 42_1 debug`" in whole.output


def test_fetched_are_files_and_links_alone(tmp_path: Path) -> None:
    """Marks of deletion delete nothing, links are not followed, and with a base only what differs is brought."""
    source, target, base = tmp_path / "source", tmp_path / "target", tmp_path / "base"
    for each in (source, target, base):
        each.mkdir()
    (source / "link").symlink_to("/etc/passwd")
    (source / "folder").symlink_to("/etc")
    os.mkfifo(source / "fifo")
    (source / ".wh.gone").touch()
    (target / "gone").write_text("kept")
    for place in (source, base):
        (place / "same").write_text("same")
    (source / "new").write_text("new")
    done = fetch_tree(source, target, base=base, force=True)
    assert [Path(path).name for path in done.copied] == ["folder", "link", "new"]
    assert (target / "link").readlink() == Path("/etc/passwd")
    assert (target / "gone").read_text() == "kept"


def test_a_file_where_a_folder_is_to_be_is_left(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for each in (source / "folder", target):
        each.mkdir(parents=True)
    (source / "folder/file").write_text("x")
    (target / "folder").write_text("a file")
    done = fetch_tree(source, target, base=None, force=True)
    assert [clash.path for clash in done.clashes] == [str(target / "folder/file")]
    assert (target / "folder").read_text() == "a file"


def test_too_long_path_is_named_and_all_others_are_fetched(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for each in (source, target):
        each.mkdir()
    (source / "file").write_text("x")
    make_deep(source)
    done = fetch_tree(source, target, base=None, force=True)
    assert done.copied == [str(target / "file")]
    assert [os.path.basename(path) for path in done.too_long] == ["end"]  # noqa: PTH119 - it is no path
    assert sorted(path.name for path in target.iterdir()) == ["file"]
    remove_tree(source)


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
    """What the shell is told after these words, of which the last is incomplete."""
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
