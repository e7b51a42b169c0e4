"""Options of sessions from variables and scripts: what counts over what, and what is left out."""

from __future__ import annotations

import pytest

from slurm.sbatch import ALLOWED, OPTIONS, REFUSED, OptionError
from slurm.sources import VARIABLES, options_from_environment, options_from_script


def test_every_variable_stands_for_an_option() -> None:
    assert set(VARIABLES.values()) <= OPTIONS.keys()
    assert len(VARIABLES) > 55


def test_variables_become_options() -> None:
    found = options_from_environment(
        {
            "SBATCH_TIMELIMIT": "8:00:00",
            "SBATCH_MEM_PER_NODE": "4G",
            "SBATCH_OVERCOMMIT": "",
            "SBATCH_SPREAD_JOB": "yes",
            "SBATCH_EXCLUSIVE": "",
            "SBATCH_REQ_SWITCH": "1",
            "SBATCH_WAIT4SWITCH": "5:00",
            "SBATCH_OUTPUT": "/dev/null",
            "SLURM_CONF": "/etc/slurm/slurm.conf",
            "HOME": "/home/alice",
        }
    )
    assert sorted(found.options) == [
        "--exclusive",
        "--mem=4G",
        "--overcommit",
        "--spread-job",
        "--switches=1@5:00",
        "--time=8:00:00",
    ]
    assert found.left_out == {"output": REFUSED["output"]}


def test_a_script_becomes_options() -> None:
    script = b"""#!/bin/bash
#SBATCH -t 60 --mem=2G
#SBATCH --gres=gpu:intel:1 -o out.%j -J job
#SBATCH --time=8:00:00
python3 train.py
#SBATCH --nice=5
"""
    found = options_from_script(script)
    assert found.options == ["--mem=2G", "--gres=gpu:intel:1", "--time=8:00:00"]
    assert found.left_out == {name: REFUSED[name] for name in ("output", "job-name")}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--no-such", "line 2 of the script: --no-such is not an option of sbatch"),
        ("--time", "line 2 of the script: --time needs a value"),
        ("--constraint=ä", "not printable ASCII"),
    ],
)
def test_what_cannot_be_used_is_refused(line: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        options_from_script(f"#!/bin/bash\n#SBATCH {line}\n".encode())


@pytest.mark.parametrize("word", ["hetjob", "packjob"])
def test_a_heterogeneous_job_is_refused_with_the_line(word: str) -> None:
    with pytest.raises(OptionError, match="line 3 of the script begins another component of a heterogeneous job"):
        options_from_script(f"#!/bin/bash\n#SBATCH -n1\n#SBATCH {word}\n#SBATCH -n2\n".encode())


def test_a_byte_order_mark_is_refused_in_words() -> None:
    with pytest.raises(OptionError, match="begins with a byte order mark"):
        options_from_script(b"\xef\xbb\xbf#!/bin/bash\n#SBATCH --time=5\n")


def test_no_option_is_both_allowed_and_refused() -> None:
    assert not ALLOWED.keys() & REFUSED.keys()
    assert OPTIONS.keys() == ALLOWED.keys() | REFUSED.keys()
