"""Volumes from one job of a session to the next: a snapshot between them, or the same volumes."""

from __future__ import annotations

from typing import Any

import pytest

from broker.launcher.request import VerbError
from broker.names import new_id
from tests.volumes.act import OTHER, Actor, DiedError, taken


def begin(actor: Actor, session: str, submission: int) -> None:
    """The submission's job says that it begins, as session.sh does."""
    (actor.session(session) / "run").mkdir(exist_ok=True)
    (actor.session(session) / "run/begun").write_text(f"{submission}\n")


def hand_over(actor: Actor, session: str, submission: int, most: int = 20, **request: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return actor("hand_over", session=session, submission=submission, most=most, **request)


def test_what_a_job_leaves_is_a_snapshot_for_the_one_that_follows(actor: Actor, session: str) -> None:
    before = actor.record(session)
    hand_over(actor, session, 2)
    asked = actor.record(session)
    assert (asked.home, asked.system, asked.snapshots) == (before.home, before.system, ())
    (actor.top(session) / "file").write_text("to the last moment")
    begin(actor, session, 2)
    after = actor.record(session)
    assert after.home.layers == (before.home.top,)
    assert after.home.top not in before.named_layers()
    (snapshot,) = after.snapshots
    assert (snapshot.number, snapshot.consistency, snapshot.automatic) == (1, "stopped", True)
    assert snapshot.reason == "when a job ended"
    assert actor("snapshots", session=session)["snapshots"][0]["number"] == 1
    (actor.top(session) / "file").write_text("of the second job")
    assert actor.shows(session) == {"file": "of the second job"}
    actor("gc")
    assert actor.layers() == after.named_layers()
    actor("rollback", session=session, operation=new_id(), snapshot=1)
    assert actor.shows(session) == {"file": "to the last moment"}
    assert [each.number for each in actor.record(session).snapshots] == [1, 2]
    assert actor("verify", session=session)["problems"] == []


@pytest.mark.parametrize("begun", ["", "1\n", "-2\n", "2x\n", "\u0662\n"])
def test_it_is_none_before_that_job_has_begun(actor: Actor, session: str, begun: str) -> None:
    hand_over(actor, session, 2)
    before = actor.record(session)
    (actor.session(session) / "run").mkdir()
    (actor.session(session) / "run/begun").write_text(begun)
    assert actor.record(session) == before
    actor("gc")
    assert actor.layers() == before.named_layers()
    number = taken(actor, session)  # of the stopped session: the job never came
    assert (number, actor.shows(session)) == (1, {"file": "first"})


def test_one_follows_the_other(actor: Actor, session: str) -> None:
    for submission in range(2, 6):
        first = hand_over(actor, session, submission)
        assert hand_over(actor, session, submission) == first
        begin(actor, session, submission)
        (actor.top(session) / f"of-{submission}").write_text("x")
    assert set(actor.shows(session)) == {"file", "of-2", "of-3", "of-4", "of-5"}
    found = actor.record(session)
    assert [len(each.home) for each in found.snapshots] == [1, 2, 3, 4]
    actor("gc")
    assert actor.layers() == found.named_layers()


def test_what_is_snapshotted_meanwhile_stays_what_it_was(actor: Actor, session: str) -> None:
    """Of the running job: its top still changes, so the live copy is a layer of its own."""
    hand_over(actor, session, 2)
    (actor.session(session) / "run").mkdir()
    actor("copy", session=session, operation=new_id(), job_id=7)
    (actor.top(session) / "file").write_text("later")
    begin(actor, session, 2)
    found = actor.record(session)
    assert [each.reason for each in found.snapshots] == ["", "when a job ended"]
    assert found.home.copied == ""
    actor("rollback", session=session, operation=new_id(), snapshot=1)
    assert actor.shows(session) == {"file": "first"}
    actor("rollback", session=session, operation=new_id(), snapshot=2)
    assert actor.shows(session) == {"file": "later"}


@pytest.mark.parametrize(("driver", "most"), [("reflink", 20), ("plain", 20), ("overlay", 1)])
def test_where_it_would_cost_something_the_next_job_takes_what_there_is(actor: Actor, driver: str, most: int) -> None:
    session = actor.make(driver)
    (actor.top(session) / "file").write_text("first")
    taken(actor, session)
    before = actor.record(session)
    answer = hand_over(actor, session, 2, most)
    assert answer["volumes"]["driver"] == driver
    begin(actor, session, 2)
    assert actor.record(session) == before


def test_a_handover_that_dies_has_changed_nothing(actor: Actor, session: str) -> None:
    before = actor.record(session)
    with pytest.raises(DiedError):
        hand_over(actor, session, 2, crash_at="volumes.handover-made")
    begin(actor, session, 2)
    assert actor.record(session) == before
    actor("gc")
    assert actor.layers() == before.named_layers()


def test_over_another_image_nothing_is_handed_over(actor: Actor, session: str) -> None:
    taken(actor, session)
    with pytest.raises(VerbError, match="switched to another image"):
        actor("hand_over", session=session, submission=2, most=20, **OTHER)
