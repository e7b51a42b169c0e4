"""The table of sbatch's options against the real sbatch of each release: its help, its getopt, and what it does."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING

import pytest

from slurm.sbatch import ALIASES, ALLOWED, LETTERS, OPTIONS, REFUSED, Takes, merge_options, parse_options
from slurm.sources import VARIABLES, WAIT_FOR_SWITCH, options_from_environment

if TYPE_CHECKING:
    from tests.lab_cluster import Lab


pytestmark = pytest.mark.usefixtures("tidy")


NEWER_OPTIONS = {
    "24.11": {"consolidate-segments", "container-type", "external", "mem-update", "resources", "spread-segments"}
}
"""By the release: the options that it does not have yet."""
NEWER_VARIABLES = {
    "24.11": {
        *("SBATCH_CONSOLIDATE_SEGMENTS", "SBATCH_CONTAINER_TYPE", "SBATCH_SEGMENT_SIZE", "SBATCH_SPREAD_SEGMENTS"),
    }
}
CHANGED = frozenset({"get-user-env", "requeue"})
"""Options that take a value, or may take one, in some releases only."""


def release(lab: Lab) -> str:
    """The first two numbers of Slurm's version, such as `24.11`."""
    return lab.sh("sbatch --version").split()[-1].rpartition(".")[0]


def complaint(lab: Lab, *words: str) -> str:
    """Return sbatch's messages about these words. Without a script it never submits anything."""
    return lab.run(["sbatch", *words], user="alice", seconds=30).stderr.decode()


def test_every_option_that_help_lists_is_in_the_table(each_lab: Lab) -> None:
    text = each_lab.sh("sbatch --help", user="alice")
    listed = set(re.findall(r"^  (?:-\w, |    )--([a-z-]+)", text, re.MULTILINE))
    assert len(listed) > 90
    assert listed <= {*ALLOWED, *REFUSED, *ALIASES}
    letters = dict(re.findall(r"^  -(\w), --([a-z-]+)", text, re.MULTILINE))
    assert letters == LETTERS


def test_every_option_that_getopt_knows_is_in_the_table(each_lab: Lab) -> None:
    """sbatch's help leaves some out, but getopt names all that an abbreviation may mean."""
    known: set[str] = set()
    for letter in string.ascii_lowercase:
        known |= set(re.findall(r"'--([a-z-]{2,})'", complaint(each_lab, f"--{letter}", "--wait=")))
    assert len(known) > 105
    assert known <= {*ALLOWED, *REFUSED, *ALIASES}


def test_every_variable_that_sbatch_reads_is_in_the_table(each_lab: Lab) -> None:
    text = each_lab.sh("grep -aoE 'SBATCH_[A-Z0-9_]+' $(readlink -f $(command -v sbatch))", user="alice")
    assert set(text.split()) == {*VARIABLES, WAIT_FOR_SWITCH} - NEWER_VARIABLES.get(release(each_lab), set())


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ("SBATCH_TIMELIMIT=7 SBATCH_PARTITION=urgent SBATCH_MEM_PER_NODE=300M SBATCH_GRES=gpu:intel:1", ""),
        ("SBATCH_EXCLUSIVE= SBATCH_OVERCOMMIT= SBATCH_THREADS_PER_CORE=1", ""),
        ("SBATCH_GPUS=1 SBATCH_CPUS_PER_GPU=1 SBATCH_MEM_PER_GPU=200M SBATCH_WCKEY=key", ""),
        ("SBATCH_REQ_SWITCH=1 SBATCH_WAIT4SWITCH=5:00 SBATCH_DELAY_BOOT=5 SBATCH_SPREAD_JOB=", ""),
        ("SBATCH_TIMELIMIT=7 SBATCH_MEM_PER_NODE=300M", "--time=9 --mem-per-cpu=100M"),
    ],
)
def test_variables_make_the_job_that_our_options_of_them_make(each_lab: Lab, variables: str, options: str) -> None:
    def shown(prefix: str, words: str) -> list[str]:
        command = f"{prefix} sbatch --parsable --hold --output=/dev/null --chdir=/tmp {words} --wrap=true"
        job_id = int(each_lab.sh(command, user="alice"))
        lines = each_lab.sh(f"scontrol show job {job_id}; scancel {job_id}").splitlines()
        return [line for line in lines if not re.search(r"JobId=|(?:Submit|AccrueT|Suspend)Time=|SubmitLine=", line)]

    given = dict(word.split("=", 1) for word in variables.split())
    ours = merge_options(options_from_environment(given).options, parse_options(options.split()))
    assert shown("", " ".join(ours)) == shown(variables, options)


@pytest.mark.parametrize("takes", Takes)
def test_what_an_option_takes_is_what_sbatch_says(each_lab: Lab, takes: Takes) -> None:
    apart = {"power", "help", "usage", "version", *CHANGED}  # they end at once, or are not the same in all releases
    apart |= NEWER_OPTIONS.get(release(each_lab), set())
    names = [name for name, option in OPTIONS.items() if option.takes is takes and name not in apart]
    both = "sbatch --$name 2>&1 </dev/null; sbatch --$name= 2>&1 </dev/null"
    script = f"for name; do {both}; done"
    said = each_lab.run(["sh", "-c", script, "sh", *names], user="alice", seconds=60).stdout.decode()
    each_lab.sh("scancel --user=alice --name=external")  # --external needs nothing more to make a job
    needing = set(re.findall(r"option '--([a-z-]+)' requires an argument", said))
    flags = set(re.findall(r"option '--([a-z-]+)' doesn't allow an argument", said))
    assert needing == (set(names) if takes is Takes.VALUE else set())
    assert flags == (set(names) if takes is Takes.NOTHING else set())


@pytest.mark.parametrize(
    "typed",
    [
        "-n4 -c 1 -t5 -pgpu",
        "--ntasks 2 --mem 100 --time=0-00:05:00",
        "-OHs -t 5",
        "-koff -H --exclus=user",
        "--nice --hold --part gpu --tasks-per-node=2 -n 2",
    ],
)
def test_canonical_options_make_the_job_that_the_typed_ones_make(each_lab: Lab, typed: str) -> None:
    def submitted(words: list[str]) -> list[str]:
        command = ["sbatch", "--parsable", "--hold", "--output=/dev/null", "--chdir=/tmp", *words, "--wrap=true"]
        done = each_lab.run(command, user="alice")
        assert done.returncode == 0, done.stderr.decode()
        job_id = int(done.stdout)
        shown = each_lab.sh(f"scontrol show job {job_id}; scancel {job_id}").splitlines()
        return [line for line in shown if not re.search(r"JobId=|(?:Submit|AccrueT|Suspend)Time=|SubmitLine=", line)]

    as_typed = submitted(typed.split())
    assert len(as_typed) > 10
    assert as_typed == submitted(parse_options(typed.split()))
