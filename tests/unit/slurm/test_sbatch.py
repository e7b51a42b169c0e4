"""Users' sbatch options: what is taken, what is refused and why, and what the launcher lets through."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.sbatch import (
    ALIASES,
    ALLOWED,
    LETTERS,
    MAX_OPTIONS,
    MAX_VALUE_CHARACTERS,
    REFUSED,
    OptionError,
    Takes,
    check_options,
    merge_options,
    parse_options,
)
from tests.deadlines import DEADLINE_S

# The long names that sbatch 26.05.5 itself lists, taken from getopt's own answers to ambiguous abbreviations.
# tests/contract/test_sbatch_table.py asks the real program.
SBATCH = """
    account acctg-freq array autocomplete batch bb bbf begin chdir cluster cluster-constraint clusters
    comment consolidate-segments constraint container container-id container-type context contiguous
    core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency
    distribution error exclude exclusive export export-file external extra extra-node-info get-user-env
    gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags help hint
    hold ignore-pbs input job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem
    mem-bind mem-per-cpu mem-per-gpu mem-update mincpus network nice no-kill no-requeue nodefile
    nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
    ntasks-per-tres oom-kill-step open-mode output overcommit oversubscribe parsable partition prefer
    priority profile propagate qos quiet reboot requeue reservation resources resv-ports segment signal
    sockets-per-node spread-job spread-segments stepmgr switches tasks-per-node test-only thread-spec
    threads-per-core time time-min tmp tres-bind tres-per-task uid usage use-min-nodes verbose version
    wait wait-all-nodes wckey wrap
"""


def test_the_tables_hold_every_option_of_sbatch_once() -> None:
    known = [*ALLOWED, *REFUSED, *ALIASES]
    assert len(known) == len(set(known))
    assert set(SBATCH.split()) <= set(known)
    assert set(known) - set(SBATCH.split()) == {"power"}, "in the manual of older versions only"
    assert len(LETTERS) == len(set(LETTERS.values()))


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("--time=60", ["--time=60"]),
        ("--time 60", ["--time=60"]),
        ("-t 60", ["--time=60"]),
        ("-t60", ["--time=60"]),
        ("-n4 -c 1", ["--ntasks=4", "--cpus-per-task=1"]),
        ("--gres gpu:intel:1 --mem 4G", ["--gres=gpu:intel:1", "--mem=4G"]),
        ("--part gpu", ["--partition=gpu"]),
        ("--exclusive", ["--exclusive"]),
        ("--exclusive=user", ["--exclusive=user"]),
        ("--exclusive -n 2", ["--exclusive", "--ntasks=2"]),
        ("--exclus", ["--exclusive"]),
        ("-Os", ["--overcommit", "--oversubscribe"]),
        ("-Ot60", ["--overcommit", "--time=60"]),
        ("-HO -c 2", ["--hold", "--overcommit", "--cpus-per-task=2"]),
        ("-k", ["--no-kill"]),
        ("-koff", ["--no-kill=off"]),
        ("--nice=-5", ["--nice=-5"]),
        ("--tasks-per-node=2", ["--ntasks-per-node=2"]),
        ("--mem=1G -t 1 --mem=2G", ["--time=1", "--mem=2G"]),
        ("--mem", "--mem needs a value"),
        ("--mem=", "--mem needs a value"),
        ("-t", "--time needs a value"),
        ("--overcommit=yes", "--overcommit takes no value"),
        ("--mem-p 3", "--mem-p is ambiguous: --mem-per-cpu, --mem-per-gpu"),
        ("--tiem=3", "--tiem is not an option of sbatch; did you mean --time?"),
        ("--frobnicate", "--frobnicate is not an option of sbatch"),
        ("-Z", "-Z is not an option of sbatch"),
        ("-OZ", "-Z is not an option of sbatch"),
        ("script.sh", "`script.sh` is not an option of sbatch: options begin with - or --"),
        ("-- --mem=1", "`--` is not an option of sbatch: options begin with - or --"),
        ("-", "`-` is not an option of sbatch: options begin with - or --"),
        ("--=3", "`--=3` is not of the form --name or --name=value"),
        (
            "--output=/etc/passwd",
            "--output cannot be used for a session: a session's log is kept in its own folder",
        ),
        ("-o x", "--output cannot be used for a session: a session's log is kept in its own folder"),
        ("--outp=x", "--output cannot be used for a session: a session's log is kept in its own folder"),
        ("--uid=0", "--uid cannot be used for a session: a session runs as its owner"),
        ("--wrap=id", "--wrap cannot be used for a session: the session's script is always the same"),
    ],
)
def test_what_users_type(typed: str, canonical: list[str] | str) -> None:
    if isinstance(canonical, list):
        assert parse_options(typed.split()) == canonical
    else:
        with pytest.raises(OptionError) as caught:
            parse_options(typed.split())
        assert str(caught.value) == canonical


@pytest.mark.parametrize("name", REFUSED)
def test_each_refused_option_says_why(name: str) -> None:
    for words in ([f"--{name}=1"], [f"--{name}"]):
        with pytest.raises(OptionError, match=f"--{name} cannot be used for a session: .+"):
            parse_options(words)
        with pytest.raises(OptionError, match=f"--{name} cannot be used for a session: .+"):
            check_options(words)


@pytest.mark.parametrize("letter", LETTERS)
def test_each_letter_stands_for_its_long_name(letter: str) -> None:
    name = LETTERS[letter]
    if name in REFUSED:
        with pytest.raises(OptionError, match=f"--{name} cannot"):
            parse_options([f"-{letter}"])
    else:
        value = ["1"] if ALLOWED[name].takes is Takes.VALUE else []
        assert parse_options([f"-{letter}", *value]) == ["=".join([f"--{name}", *value])]


@pytest.mark.parametrize(
    "word",
    [
        "",
        "mem=4G",
        "-n4",
        "--mem",
        "--mem=",
        "--mem\n=4G",
        "--mem=4G\n--uid=0",
        "--mem=\x1b[2J",
        "--mem=\x00",
        "--mem=4\u202eG",
        "--mem=é",
        "--time\u200b=3",
        "--tasks-per-node=2",
        "--part=gpu",
        "--hold=1",
        "--exclusive=",
        "--mem=" + "4" * (MAX_VALUE_CHARACTERS + 1),
        "--MEM=4G",
    ],
)
def test_the_launcher_takes_only_canonical_options_with_sane_values(word: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_options(["--time=1", word])
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()


def test_the_launcher_takes_only_so_many_options() -> None:
    check_options(["--hold"] * MAX_OPTIONS)
    with pytest.raises(OptionError, match="more than"):
        check_options(["--hold"] * (MAX_OPTIONS + 1))


def test_own_options_replace_defaults_and_their_rivals() -> None:
    defaults = ["--time=60", "--mem=4G", "--gres=gpu:intel:1", "--exclusive"]
    assert merge_options(defaults, []) == defaults
    assert merge_options(defaults, ["--time=5"]) == [
        "--mem=4G",
        "--gres=gpu:intel:1",
        "--exclusive",
        "--time=5",
    ]
    assert merge_options(["--mem=4G", "--time=1"], ["--mem-per-cpu=1G"]) == ["--time=1", "--mem-per-cpu=1G"]
    assert merge_options(["--gres=gpu:1"], ["--gpus-per-node=2"]) == ["--gpus-per-node=2"]
    assert merge_options([], ["--gpus=4", "--gres=nvme:1"]) == ["--gpus=4", "--gres=nvme:1"]


def test_importing_the_table_costs_the_root_launcher_no_third_party_module() -> None:
    code = "import sys; before = set(sys.modules); import slurm.sbatch; print(*(set(sys.modules) - before))"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    ).stdout.split()
    tops = {module.partition(".")[0] for module in loaded} - {"slurm"}
    assert tops <= sys.stdlib_module_names
    assert not tops & {"asyncio", "dataclasses", "inspect", "socket", "subprocess"}


names = st.sampled_from([*ALLOWED, *REFUSED, *ALIASES])
typed_words = st.one_of(
    st.text(max_size=20),
    names.map("--{}".format),
    st.tuples(names, st.text(max_size=20)).map("--{0[0]}={0[1]}".format),
    st.tuples(st.sampled_from(list(LETTERS)), st.text(max_size=5)).map("-{0[0]}{0[1]}".format),
)


@given(st.lists(typed_words, max_size=6))
def test_whatever_parses_is_what_the_launcher_takes_and_parses_to_itself(typed: list[str]) -> None:
    try:
        options = parse_options(typed)
    except OptionError as error:
        message = str(error)
    else:
        message = ""
        check_options(options)
        assert parse_options(options) == options
    assert message.isprintable()
