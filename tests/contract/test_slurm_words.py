"""The words that we know of Slurm's, states and reasons, against those that its own library says in each release."""

from __future__ import annotations

import json
from itertools import combinations
from typing import TYPE_CHECKING, TypedDict

import pytest

from broker.text import advice, status
from slurm import queue_position
from slurm.state import JobState

if TYPE_CHECKING:
    from tests.lab_cluster import Lab

pytestmark = pytest.mark.usefixtures("tidy")

NEWER = {"24.11": {JobState.EXPEDITING}}
"""States that a release does not have yet."""

PROGRAM = """
import ctypes, glob, json
(path,) = glob.glob("/usr/lib/*/slurm-wlm/libslurmfull.so")
library = ctypes.CDLL(path)

def said(function, numbers):
    function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_uint32]
    return {number: function(number).decode() for number in numbers}

flags = [1 << bit for bit in range(8, 32)]
pairs = [one | other for one in flags for other in flags]
states = [*range(32), *flags, *pairs]
print(json.dumps({
    "words": said(library.job_state_string, states),
    "codes": said(library.job_state_string_compact, states),
    "reasons": list(said(library.slurm_job_state_reason_string, range(1000)).values()),
}))
"""
"""Base states are numbers from 0 on, flags are bits from the eighth on (slurm/slurm.h: job_states)."""


class Library(TypedDict):
    """The results of the functions of a release's libslurm."""

    words: dict[int, str]
    codes: dict[int, str]
    reasons: list[str]


@pytest.fixture(scope="module")
def library(each_lab: Lab) -> Library:
    read = json.loads(each_lab.run(["python3", "-c", PROGRAM]).stdout)
    return {
        "words": {int(state): word for state, word in read["words"].items()},
        "codes": {int(state): code for state, code in read["codes"].items()},
        "reasons": read["reasons"],
    }


@pytest.fixture(scope="module")
def shown(library: Library) -> dict[int, str]:
    """The states and flags that Slurm shows alone, by their number."""
    bases = {number: word for number, word in library["words"].items() if number < 32 and word != "?"}
    single = [1 << bit for bit in range(8, 32)]
    return bases | {flag: word for flag in single if (word := library["words"][flag]) != bases[0]}


def test_states_are_those_of_the_library(each_lab: Lab, shown: dict[int, str]) -> None:
    version = each_lab.sh("sinfo --version").split()[-1].rpartition(".")[0]
    assert set(shown.values()) == set(JobState) - {JobState.UNKNOWN} - NEWER.get(version, set())


def test_word_and_code_of_a_state_read_alike(library: Library, shown: dict[int, str]) -> None:
    codes = {word: library["codes"][state] for state, word in shown.items()}
    codes.pop("EXPEDITING", None)  # it has none: its code is that of the base state
    assert {word: JobState.parse(word) for word in shown.values()} == {word: word for word in shown.values()}
    assert {word: JobState.parse(code) for word, code in codes.items()} == {word: word for word in codes}


def test_of_two_flags_the_library_shows_the_one_that_we_take(library: Library, shown: dict[int, str]) -> None:
    flags = [state for state in shown if state >= 1 << 8]
    for one, other in combinations(flags, 2):
        assert JobState.combine([shown[one], shown[other]]) == library["words"][one | other]


def test_every_reason_that_we_have_words_for_is_one_of_slurm_s(library: Library) -> None:
    ours = {*status._REASONS, *advice._WHILE_QUEUED, *queue_position.BLOCKED_REASONS}
    assert ours <= set(library["reasons"])
