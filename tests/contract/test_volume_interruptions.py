"""A verb that is killed at any labelled point, and the same request after that."""

from __future__ import annotations

from typing import Any

import pytest

from broker.names import new_id
from broker.volumes import live_snapshot
from broker.volumes.operations import ImageVersion, SnapshotNote
from broker.volumes.storage import Storage
from tests.volumes.act import IMAGE, OTHER, Actor, DiedError, taken

POINTS: list[tuple[str, str, dict[str, Any]]] = [
    *((point, "snapshot", {}) for point in ("volumes.frozen", "volumes.before-commit", "volumes.committed")),
    *(
        (point, "rollback", {"snapshot": 1})
        for point in ("volumes.frozen", "volumes.before-commit", "volumes.committed")
    ),
    *((point, "switch", {"to": OTHER}) for point in ("volumes.frozen", "volumes.before-commit", "volumes.committed")),
]


@pytest.mark.parametrize("driver", ["overlay", "plain"])
@pytest.mark.parametrize(("point", "verb", "request_"), POINTS)
def test_an_operation_that_dies_has_happened_wholly_or_not_at_all(
    actor: Actor, driver: str, point: str, verb: str, request_: dict[str, Any]
) -> None:
    session = actor.make(driver)
    (actor.top(session) / "file").write_text("first")
    taken(actor, session, label="acknowledged")
    (actor.top(session) / "file").write_text("second")
    before, operation = actor.record(session), new_id()
    with pytest.raises(DiedError):
        actor(verb, session=session, operation=operation, crash_at=point, **request_)
    half = actor.record(session)
    assert (half == before) == (point != "volumes.committed")
    answer = actor(verb, session=session, operation=operation, **request_)
    after = actor.record(session)
    assert after.snapshots[0] == before.snapshots[0]
    assert len(after.snapshots) == 2
    assert after.done[operation] == answer
    assert actor.shows(session) == {"file": "first" if verb == "rollback" else "second"}
    actor("gc")
    assert actor.layers() == after.named_layers()
    assert actor("verify", session=session)["problems"] == []


@pytest.mark.parametrize("point", ["clone.source-kept", "clone.forked"])
def test_a_clone_that_dies_is_made_by_asking_again(actor: Actor, session: str, point: str) -> None:
    copy, operation = new_id(), new_id()
    actor.session(copy).mkdir(mode=0o700)
    request: dict[str, Any] = {"session": copy, "operation": operation, "source": session, "snapshot": None}
    with pytest.raises(DiedError):
        actor("clone", crash_at=point, **request)
    answer = actor("clone", **request)
    assert actor("clone", **request) == answer
    assert actor.shows(copy) == {"file": "first"}
    actor("gc")
    assert actor.layers() == actor.record(session).named_layers() | actor.record(copy).named_layers()


def test_creation_of_volumes_that_dies_is_completed_by_asking_again(actor: Actor) -> None:
    session = new_id()
    with pytest.raises(DiedError):
        actor("make", session=session, driver="overlay", crash_at="volumes.made")
    assert not (actor.session(session) / "volumes.json").exists()
    actor("make", session=session, driver="overlay")
    actor("gc")
    assert actor.layers() == actor.record(session).named_layers()


@pytest.mark.parametrize("point", ["copy.requested", "copy.signalled", "copy.copied"])
def test_copy_of_a_running_session_that_dies_is_made_once_by_asking_again(
    actor: Actor, session: str, point: str
) -> None:
    (actor.session(session) / "run").mkdir(exist_ok=True)
    before = actor.record(session)
    request: dict[str, Any] = {"session": session, "operation": new_id(), "job_id": 1}
    with pytest.raises(DiedError):
        actor("copy", crash_at=point, **request)
    assert actor.record(session) == before
    answer = actor("copy", **request)
    assert actor("copy", **request) == answer
    assert len(actor.record(session).snapshots) == len(before.snapshots) + 1
    assert actor.shows(session) == {"file": "first"}
    actor("gc")
    assert actor.layers() == actor.record(session).named_layers()


def test_a_deletion_that_dies_goes_on(actor: Actor, session: str) -> None:
    for verb, point in [("trash", "trash.moved"), ("purge", "purge.renamed")]:
        with pytest.raises(DiedError):
            actor(verb, session=session, crash_at=point)
        actor(verb, session=session)
    assert not actor.session(session).exists()
    assert actor.layers() == set()


def test_a_restore_that_dies_goes_on(actor: Actor, session: str) -> None:
    (actor.session(session) / "manifest.json").write_text("{}")
    actor("trash", session=session)
    with pytest.raises(DiedError):
        actor("untrash", session=session, crash_at="untrash.moved")
    assert "volumes" in actor("untrash", session=session)
    assert (actor.session(session) / "manifest.json").read_text() == "{}"


def test_a_collection_that_dies_goes_on(actor: Actor, session: str) -> None:
    number = taken(actor, session)
    (actor.top(session) / "later").write_text("x")
    actor("rollback", session=session, operation=new_id(), snapshot=number)
    actor("forget", session=session, snapshot=number + 1)
    with pytest.raises(DiedError):
        actor("gc", crash_at="collect.removing")
    actor("gc")
    assert actor.layers() == actor.record(session).named_layers()


def test_flattening_that_dies_has_changed_nothing(actor: Actor, session: str, image: dict[str, Any]) -> None:
    for content in ("second", "third"):
        taken(actor, session)
        (actor.top(session) / "file").write_text(content)
        (actor.top(session) / content).write_text(content)
    shown, before = actor.shows(session), actor.record(session)
    request = {"session": session, "operation": new_id(), **image}
    with pytest.raises(DiedError):
        actor("flatten", crash_at="flatten.joined", **request)
    assert actor.record(session) == before
    assert actor("flatten", **request)["volumes"]["layers"]["home"] == 1
    assert actor.shows(session) == shown
    assert actor.record(session).snapshots == before.snapshots


def test_a_copy_of_an_earlier_attempt_acknowledges_nothing(
    actor: Actor, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job that was asked is still at it when it is asked again: its first outcome is not the second's."""
    run = actor.session(session) / "run"
    run.mkdir(exist_ok=True)
    asked: list[str] = []

    def signalled(*_: object) -> None:
        request = dict(line.split("=", 1) for line in (run / "copy.request").read_text().splitlines())
        asked.append(request["HOME"])
        if len(asked) == 1:
            raise KeyboardInterrupt
        (run / "copy.outcome").write_text("ID=01jd0000000000000000000000\nRESULT=frozen\nPAUSE=0.1\n")

        def copied(_: object) -> bool:
            (actor.root / "layers" / request["HOME"] / "tree").mkdir()
            (run / "copy.outcome").write_text(f"ID={request['ID']}\nRESULT=frozen\nPAUSE=0.2\n")
            return False

        monkeypatch.setattr(live_snapshot, "job_is_gone", copied)

    monkeypatch.setattr(live_snapshot, "signal_job", signalled)
    request: dict[str, Any] = {"job_id": 1, "image": ImageVersion(**IMAGE), "note": SnapshotNote()}
    operation = new_id()
    with pytest.raises(KeyboardInterrupt):
        live_snapshot.snapshot_running(Storage(actor.root), session, operation, **request)
    made = live_snapshot.snapshot_running(Storage(actor.root), session, operation, **request)["snapshot"]
    assert made["pause"] == 0.2
    assert made["home"] == (asked[1],)
