"""The variables of a submission that a batch job in an environment gets, and the message about the others."""

from __future__ import annotations

import re

import pytest

from broker.cli.exported import LOGIN_NODE_PREFIXES, LOGIN_NODE_VARIABLES, OWN_PREFIXES, ExportedEnvironment
from slurm.commandline import read_command_line
from tests.job_scripts import BATCH


def exported(words: str, script: str = "", **variables: str) -> ExportedEnvironment:
    return ExportedEnvironment.of(read_command_line(words.split()), script.encode(), variables)


@pytest.mark.parametrize(
    ("words", "script", "variables", "inherits", "named"),
    [
        ("job.sh", "", {}, True, ()),
        ("--export=ALL job.sh", "", {}, True, ()),
        ("--export=NONE job.sh", "", {}, False, ()),
        ("--export=NIL job.sh", "", {}, False, ()),
        ("--export=all,A=1,B", "", {}, True, ("A", "B")),
        ("--export A,B=x=y,A=2", "", {}, False, ("A", "B")),
        ("""--export=A='x,B=1',C="d,e",F""", "", {}, False, ("A", "C", "F")),
        ("--export=A='x,B=1", "", {}, False, ("A", "B")),
        ("--export=ALL,no-name=1,7=x,=", "", {}, True, ()),
        ("--export=A : --export=B job.sh", "", {}, False, ("A",)),
        ("-n1 : --export=B job.sh", "", {}, True, ()),
        (
            "job.sh",
            "#!/bin/sh\n#SBATCH --export=ALL,A=1\n#SBATCH -n1 --export B\ntrue\n#SBATCH --export=C",
            {},
            False,
            ("B",),
        ),
        ("job.sh", "#!/bin/sh\n#SBATCH --export=A\n#SBATCH hetjob\n#SBATCH --export=B\n", {}, False, ("A",)),
        ("job.sh", "#!/bin/sh\n#SBATCH --export=A\n", {"SBATCH_EXPORT": "ALL,B"}, True, ("B",)),
        ("--export=C job.sh", "#!/bin/sh\n#SBATCH --export=A\n", {"SBATCH_EXPORT": "ALL,B"}, False, ("C",)),
    ],
)
def test_what_counts_of_export(
    words: str, script: str, variables: dict[str, str], inherits: bool, named: tuple[str, ...]
) -> None:
    assert exported(words, script, **variables) == ExportedEnvironment(inherits, named)


def test_what_opens_the_environment_is_never_passed_on() -> None:
    given = ExportedEnvironment(True, ("BERTH_X", "A", "APPTAINER_BIND"))
    assert given.explicit == ("A",)
    assert given.remarks({}, {}) == [
        "the job does not get APPTAINER_BIND, BERTH_X, which would change how its environment is opened"
    ]


def test_what_every_login_has_is_not_worth_a_word() -> None:
    login = {"XDG_SESSION_ID": "3", "SSH_TTY": "x", "LS_COLORS": "x", "MAIL": "x", "_": "x", "HOME": "x", "LR": "1"}
    assert ExportedEnvironment(True, ()).remarks(login, {}) == []


def test_what_is_dropped_or_overridden_is_said_unless_it_is_named() -> None:
    variables = {"LD_LIBRARY_PATH": "x", "CONDA_PREFIX": "x", "A": "1", "B": "2", "PATH": "x"}
    profile = {"A": "1", "B": "3", "C": "4", "PATH": "y"}
    assert ExportedEnvironment(True, ("CONDA_PREFIX",)).remarks(variables, profile) == [
        "the job does not get LD_LIBRARY_PATH of the login node; "
        "to pass the present value, use --export=ALL,LD_LIBRARY_PATH",
        "the job gets the profile's value of B; to pass the present value, use --export=ALL,B",
    ]
    assert ExportedEnvironment(False, ()).remarks(variables, profile) == []


def test_the_node_drops_the_same_variables() -> None:
    text = BATCH.read_text()
    body = text[text.index("forget_login_node() {") :].split("\n}\n")[0]
    names = re.findall(r"\b[A-Z][A-Z0-9_]*\b", body.split("unset ")[1].split("\n  for ")[0])
    beginnings = re.findall(r"\$\{!(\w+)@\}", body)
    assert set(names) == LOGIN_NODE_VARIABLES
    assert {each for each in beginnings if each != "BASH_FUNC_"} == {*LOGIN_NODE_PREFIXES, *OWN_PREFIXES}
