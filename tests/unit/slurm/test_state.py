"""The mapping of Slurm's states is total, and agrees with what libslurm shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.state import JobState

# What Slurm 26.05's job_state_string() and job_state_string_compact() gave for each state and each flag,
# called one by one, and what we make of it. POWER_UP_NODE and its like are shown as the base state.
BASES = {
    "PENDING PD": "waits",
    "RUNNING R": "runs",
    "SUSPENDED S": "runs",
    "COMPLETED CD": "ended",
    "CANCELLED CA": "ended",
    "FAILED F": "failed",
    "TIMEOUT TO": "failed",
    "NODE_FAIL NF": "failed",
    "PREEMPTED PR": "failed",
    "BOOT_FAIL BF": "failed",
    "DEADLINE DL": "failed",
    "OUT_OF_MEMORY OOM": "failed",
}
FLAGS = {
    "COMPLETING CG": "runs",
    "STAGE_OUT SO": "runs",
    "CONFIGURING CF": "runs",
    "EXPEDITING": "runs",
    "RESIZING RS": "runs",
    "REQUEUED RQ": "waits",
    "REQUEUE_FED RF": "waits",
    "REQUEUE_HOLD RH": "waits",
    "SPECIAL_EXIT SE": "waits",
    "STOPPED ST": "runs",
    "REVOKED RV": "failed",
    "RESV_DEL_HOLD RD": "waits",
    "SIGNALING SI": "runs",
}
SILENT_FLAGS = ["LAUNCH_FAILED", "GETENV_FAILED", "RECONFIG_FAIL", "POWER_UP_NODE", "UPDATE_DB"]

ALL = BASES | FLAGS


def meaning(state: JobState) -> str:
    if state.failed:
        return "failed"
    (word,) = [word for word in ("waits", "runs", "ended") if getattr(state, word)]
    return word


@pytest.mark.parametrize("words", ALL)
def test_every_state_of_slurm_by_word_and_by_code(words: str) -> None:
    for word in words.split():
        assert JobState.parse(word) == words.split(maxsplit=1)[0]
        assert meaning(JobState.parse(word)) == ALL[words]


def test_there_are_no_other_states() -> None:
    assert {words.split()[0] for words in ALL} | {"UNKNOWN"} == set(JobState)


def test_the_strongest_flag_wins_whatever_the_order() -> None:
    flags = [words.split()[0] for words in FLAGS]
    for index, strong in enumerate(flags):
        for weak in flags[index + 1 :]:
            assert JobState.combine(["RUNNING", weak, strong]) == strong
            assert JobState.parse(f"{strong}|COMPLETED,{weak}") == strong


@pytest.mark.parametrize("flag", SILENT_FLAGS)
def test_a_flag_that_slurm_never_shows_alone_leaves_the_base_state(flag: str) -> None:
    assert JobState.combine(["PENDING", flag]) is JobState.PENDING
    assert JobState.combine([flag]) is JobState.UNKNOWN


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("CANCELLED by 1000", JobState.CANCELLED),
        ("CANCELLED+", JobState.CANCELLED),
        ("RUNNING+", JobState.RUNNING),
        ("COMPLETED|COMPLETING", JobState.COMPLETING),
        ("RUNNING,LAUNCH_FAILED", JobState.RUNNING),
        (" running\n", JobState.RUNNING),
        ("RUNNING|SOMETHING_OF_2031", JobState.RUNNING),
        ("RUNNING|COMPLETED", JobState.UNKNOWN),
        ("SOMETHING_OF_2031", JobState.UNKNOWN),
        ("NOT RUNNING", JobState.UNKNOWN),
        ("?", JobState.UNKNOWN),
        ("", JobState.UNKNOWN),
        ("UNKNOWN", JobState.UNKNOWN),
    ],
)
def test_forms(text: str, state: JobState) -> None:
    assert JobState.parse(text) is state


def test_nothing_follows_from_unknown() -> None:
    unknown = JobState.UNKNOWN
    assert not any((unknown.waits, unknown.runs, unknown.ended, unknown.failed))


words = st.sampled_from([word for words in ALL for word in words.split()] + SILENT_FLAGS)


@given(st.text() | st.lists(words | st.text(max_size=3)).map("|".join))
def test_any_text_has_a_state_with_at_most_one_meaning(text: str) -> None:
    state = JobState.parse(text)
    assert [state.waits, state.runs, state.ended].count(True) == (state is not JobState.UNKNOWN)


@given(st.lists(words | st.text()))
def test_any_list_has_a_state_that_does_not_depend_on_its_order(listed: list[str]) -> None:
    assert JobState.combine(listed) is JobState.combine(reversed(listed))
