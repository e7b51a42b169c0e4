"""The meaning of a node's state for the jobs on it, in every form in which Slurm shows it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.node_state import NodeCondition


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("IDLE", NodeCondition.UP),
        ("MIXED+CLOUD", NodeCondition.UP),
        ("ALLOCATED+RESERVED+PLANNED", NodeCondition.UP),
        ("IDLE+CLOUD+POWERED_DOWN", NodeCondition.UP),
        ("MIXED+DRAIN", NodeCondition.DRAINING),
        ("drained", NodeCondition.DRAINING),
        ("draining@", NodeCondition.DRAINING),
        ("ALLOCATED+FAIL", NodeCondition.DRAINING),
        ("mixed*", NodeCondition.NOT_RESPONDING),
        ("MIXED+NOT_RESPONDING", NodeCondition.NOT_RESPONDING),
        ("IDLE*+DRAIN", NodeCondition.NOT_RESPONDING),
        ("DOWN+DRAIN+NOT_RESPONDING", NodeCondition.DOWN),
        ("down*", NodeCondition.DOWN),
        ("", NodeCondition.UP),
    ],
)
def test_condition_of_a_node(text: str, condition: NodeCondition) -> None:
    assert NodeCondition.parse(text) is condition


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert NodeCondition.parse(text) in NodeCondition
