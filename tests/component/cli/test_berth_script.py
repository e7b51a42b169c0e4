"""The script `berth`: what goes straight to sbatch, and what to Python; and the script that runs batch jobs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from broker.cli.working_directory import WorkingDirectory
from broker.schema.environments import EnvironmentView
from slurm.sbatch import ALIASES, OPTIONS, Option, Takes
from tests.deadlines import DEADLINE_S
from tests.job_scripts import BATCH

BROKER = Path(__file__).parents[3] / "broker"


@pytest.fixture
def berth(tmp_path: Path) -> Path:
    """The script with a berth-cli and an sbatch that tell who was called with what."""
    place = tmp_path / "bin"
    place.mkdir()
    shutil.copy(BROKER / "cli/berth", place / "berth")
    # sbatch is a program: without the first line of a script, and sh runs it all the same.
    for name, head in (("berth-cli", "#!/bin/sh\n"), ("sbatch", "")):
        (place / name).write_text(f'{head}printf "%s" {name}; for word; do printf " [%s]" "$word"; done\n')
        (place / name).chmod(0o755)
    (tmp_path / "log").write_text("an earlier job's output\n")
    (tmp_path / "job.sh").write_text("#!/bin/sh\ntrue\n")
    (tmp_path / "ours.sh").write_text("#!/bin/sh\n#BERTH --env dev\ntrue\n")
    return place / "berth"


def run(berth: Path, *words: str, **variables: str) -> str:
    environment = {"PATH": f"{berth.parent}:/usr/bin:/bin", **variables}
    done = subprocess.run(
        [berth, *words],
        cwd=berth.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("job.sh",),
        ("-n", "4", "job.sh", "two words"),
        ("--wrap", "echo x"),
        ("--wrap=echo x", "-t1"),
        ("-Q", "job.sh", "--", "-x"),
        ("-o", "log", "job.sh"),
        ("-Qo", "log", "--exclusive", "--output", "log", "--time=5", "-n1", ":", "-n", "2", "job.sh", "ours.sh"),
        ("--", "job.sh", "--env", "dev"),
        ("job.sh", "--env"),  # which is the script's own
    ],
)
def test_a_plain_job_goes_straight_to_sbatch(berth: Path, words: tuple[str, ...]) -> None:
    assert run(berth, "sbatch", *words) == " ".join(["sbatch", *(f"[{word}]" for word in words)])


@pytest.mark.parametrize("words", [("-Qo", "log", "--wait", "job.sh"), ("--env", "dev", "job.sh")])
def test_programs_get_the_users_value_of_a_variable_that_the_script_uses(berth: Path, words: tuple[str, ...]) -> None:
    used = set(re.findall(r"\b([a-z]+)=|for ([a-z]+) in", berth.read_text()))
    names = sorted({name for each in used for name in each if name})
    assert {"name", "word", "wrapped", "directory"} <= set(names)
    for program, head in (("sbatch", ""), ("berth-cli", "#!/bin/sh\n")):
        (berth.parent / program).write_text(f"{head}printenv {' '.join(names)}\n")
    assert run(berth, "sbatch", *words, **{name: f"my {name}" for name in names}).splitlines() == [
        f"my {name}" for name in names
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("--env", "dev", "job.sh"),
        ("--env=dev", "job.sh"),
        ("ours.sh",),
        ("-o", "log", "ours.sh"),
        ("-Qolog", "ours.sh"),
        ("--", "ours.sh"),
        (),
        ("-o", "log"),  # the script comes from standard input
        ("-o", "log", "--time=5", "-Q"),
        ("--output", "log"),
        ("-olog", "--wait"),
        ("--outpu", "log", "job.sh"),  # an abbreviation
        ("--of-a-plugin", "log"),
        ("-y", "log"),
        ("-o",),
        ("--output",),
        ("-",),
        ("-Q", "on-path.sh"),
        ("--help",),
        ("not-here.sh",),
    ],
)
def test_where_an_environment_may_be_meant_python_decides(berth: Path, words: tuple[str, ...]) -> None:
    assert run(berth, "sbatch", *words) == " ".join(["berth-cli", "[sbatch]", *(f"[{word}]" for word in words)])


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_no_options_value_is_taken_for_the_script(berth: Path, option: Option) -> None:
    ways = [(f"--{option.name}",), *([(f"-{option.letter}",)] if option.letter else [])]
    for way in ways:
        words = (*way, "log") if option.takes is Takes.VALUE else way
        # Standard input has the script, unless --wrap is one: Python reads it.
        expected = "sbatch" if option.name == "wrap" else "berth-cli"
        assert run(berth, "sbatch", *words).split()[0] == expected
        assert run(berth, "sbatch", *words, "ours.sh").split()[0] == expected
        tells = option.name in {"help", "usage", "version"}
        assert run(berth, "sbatch", *words, "job.sh").split()[0] == ("berth-cli" if tells else "sbatch")


@pytest.mark.parametrize("name", ALIASES)
def test_aliases_take_a_value_too(berth: Path, name: str) -> None:
    assert run(berth, "sbatch", f"--{name}", "log").startswith("berth-cli ")
    assert run(berth, "sbatch", f"--{name}", "log", "job.sh").startswith("sbatch ")


def test_a_script_called_sbatch_is_for_python(berth: Path) -> None:
    (berth.parent / "sbatch").write_text('#!/bin/sh\nexec berth sbatch "$@"\n')
    assert run(berth, "sbatch", "job.sh") == "berth-cli [sbatch] [job.sh]"


def test_the_variable_counts_too(berth: Path) -> None:
    assert run(berth, "sbatch", "job.sh", BERTH_ENV="dev").startswith("berth-cli [sbatch]")
    assert run(berth, "sbatch", "job.sh", BERTH_ENV="").startswith("sbatch ")


def test_everything_else_goes_to_python_also_by_a_link(berth: Path, tmp_path: Path) -> None:
    assert run(berth, "list", "--json") == "berth-cli [list] [--json]"
    link = tmp_path / "berth"
    link.symlink_to(berth)
    done = subprocess.run([link, "list"], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stdout == "berth-cli [list]"


def batch(code: str, *arguments: str, **variables: str) -> str:
    """Run code with the functions of batch.sh in reach, in an environment of PATH and these variables."""
    environment = {"PATH": "/usr/bin:/bin", **variables}
    command = ["bash", "-c", f"source {BATCH}\n{code}", "test", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


HELP = """
  -n, --ntasks=ntasks         number of tasks
      --ntasks-per-node=n     tasks
      --exclusive[=user]      alone
  -Q, --quiet                 quiet
      --pty                   terminal
  -c, --cpus-per-task=ncpus   cpus
      --multi-prog            programs
"""


@pytest.mark.parametrize(
    ("words", "wrapped"),
    [
        ("hostname", "STEP hostname"),
        ("-n4 hostname -n 5", "-n4 STEP hostname -n 5"),
        ("-n 4 hostname", "-n 4 STEP hostname"),
        ("-Qn 4 hostname", "-Qn 4 STEP hostname"),
        ("-Q -c2 hostname : x", "-Q -c2 STEP hostname : STEP x"),
        ("--ntasks 4 --exclusive hostname", "--ntasks 4 --exclusive STEP hostname"),
        ("--ntasks=4 --pty bash -l", "--ntasks=4 --pty STEP bash -l"),
        ("--cpus 2 prog", "--cpus 2 STEP prog"),
        ("-- prog --x", "-- STEP prog --x"),
        ("--help", "--help"),
    ],
)
def test_each_component_of_srun_begins_in_the_environment(words: str, wrapped: str) -> None:
    wrap = 'BEGINS=(STEP); wrap_command srun "$@"; echo "${WORDS[*]}"'
    code = f"srun() {{ cat <<'HELP'\n{HELP}HELP\n}}\n{wrap}"
    assert batch(code, *words.split()).strip() == wrapped


def test_nothing_of_the_login_node_is_passed_on() -> None:
    of_login = "LD_LIBRARY_PATH=/x CONDA_PREFIX=/c XDG_RUNTIME_DIR=/r SSH_AUTH_SOCK=/s MODULEPATH=/m"
    said = batch(f"export {of_login} LR=0.1 SLURM_JOB_ID=7; forget_login_node; env").splitlines()
    names = {line.partition("=")[0] for line in said}
    assert {"LR", "SLURM_JOB_ID", "PATH"} <= names
    assert not names & {"LD_LIBRARY_PATH", "CONDA_PREFIX", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK", "MODULEPATH"}


def test_programs_get_the_users_value_of_a_variable_whose_name_the_script_uses() -> None:
    theirs = {"WORK": "/work/alice", "USAGE": "constant", "LOG_STYLE": "of lib.sh", "PARTS": "(1 2)", "name": "a\nb"}
    code = f"f() {{ local name=x; WORK=ours PARTS=(1 2); exec_as_given printenv {' '.join(theirs)}; }}; f"
    assert batch(code, **theirs) == "\n".join([*theirs.values(), ""])
    assert batch("f() { local name; exec_as_given printenv name; }; f", **theirs) == "a\nb\n"
    assert batch("PATH=$PATH:/x; exec_as_given printenv PATH").endswith(":/x\n"), "which the script sets for the job"
    assert batch("read_explicit_variables name; echo $EXPLICIT", **theirs) == "export name=$'a\\nb'\n"
    assert batch("unset MAIL; find_replaced; echo ${#REPLACED[@]}") == "0\n"


ACCOUNT = "getent() { echo alice:x:1:1::/shared/home/alice:/bin/sh; }; BERTH_OWNER=alice; find_homes"


@pytest.mark.parametrize(
    ("work", "inside"),
    [
        ("/shared/home/alice", "/home/alice"),
        ("/shared/home/alice/a b/c", "/home/alice/a b/c"),
        ("/shared/home/alice2", "/home/alice"),
        ("/data/sets/x", "/sets/x"),
        ("/datum", "/home/alice"),
        ("/", "/"),
        ("/var/lib", "/var/lib"),
        ("/usr/share/x", "/usr/share/x"),
    ],
)
def test_where_a_directory_is_inside_that_is_not_shown(work: str, inside: str) -> None:
    code = f'{ACCOUNT}; SHOWN=(); BERTH_BINDS=/data/sets:/sets:ro,/w:/w; find_inside "$1"; printf %s "$INSIDE"'
    assert batch(code, work) == inside


NEVER = [
    "",
    "shared",
    "shared/home",
    "shared/home/alice",
    "home",
    "home/alice",
    "mnt",
    "mnt/gpfs",
    "mnt/gpfs/alice",
    "usr",
    "usr/share/x",
    "etc",
    "bin",
    "sbin",
    "lib",
    "lib64",
    "libx32/x",
    "proc/1",
    "sys",
    "dev/shm",
    "run",
    "run/user/1",
    "var",
    "var/tmp",
    "tmp",
    "tmp/x",
]
SHOWN = ["shared/home/alice/x", "data", "shared/project", "usr2", "mnt/gpfs/alice/x", "home/alice/a b,c:d"]
"""Without the first slash."""


def test_what_is_never_shown() -> None:
    """The same directories by the rules of the node and by what submission says."""
    view = EnvironmentView.model_construct(binds=[], shows_submission_directory=True)
    for path in (f"/{each}" for each in [*NEVER, "shared/a\nb", *SHOWN]):
        shown = path[1:] in SHOWN
        code = f'{ACCOUNT}; realpath() {{ echo /mnt/gpfs/alice; }}; find_homes; if can_show "$1"; then echo yes; fi'
        assert batch(code, path) == ("yes\n" if shown else ""), path
        told = WorkingDirectory(path, ("/shared/home/alice", "/mnt/gpfs/alice"), "alice").remarks(view, 42)
        assert bool(told) != shown, path


def test_one_directory_in_another_is_shown_once(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    code = f"""{ACCOUNT}; BERTH_SUBMISSION_DIRECTORY=yes; is_systems_own() {{ false; }}
      find_shown_directories "$1/a" "$1/a/b" "$1/none"; printf '%s\n' "${{SHOWN[@]#"$1"}}" """
    assert batch(code, str(tmp_path)).split() == ["/a"]
