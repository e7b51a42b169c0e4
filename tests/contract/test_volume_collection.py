"""Deletion of sessions, and collection of the layers that no record names."""

from __future__ import annotations

import pytest

from broker.launcher.request import VerbError
from broker.names import new_id
from tests.volumes.act import Actor, taken


def test_a_deleted_session_comes_back_as_it_was(actor: Actor, session: str) -> None:
    (actor.session(session) / "manifest.json").write_text("{}")
    taken(actor, session)
    before = actor.record(session)
    actor("trash", session=session)
    actor("trash", session=session)
    assert not actor.session(session).exists()
    actor("gc")
    assert "volumes" in actor("untrash", session=session)
    assert (actor.session(session) / "manifest.json").read_text() == "{}"
    assert actor.record(session) == before
    assert actor.shows(session) == {"file": "first"}


def test_what_is_purged_is_gone_and_cannot_be_brought_back(actor: Actor, session: str) -> None:
    actor("trash", session=session)
    actor("purge", session=session)
    actor("purge", session=session)
    with pytest.raises(VerbError) as refused:
        actor("untrash", session=session)
    assert refused.value.kind == "missing"
    assert actor.layers() == set()


def test_collection_takes_what_no_record_names_and_says_so_before(actor: Actor, session: str) -> None:
    number = taken(actor, session)
    (actor.top(session) / "later").write_text("x" * 5000)
    actor("rollback", session=session, operation=new_id(), snapshot=number)
    actor("forget", session=session, snapshot=number + 1)
    planned = actor("gc", dry_run=True)
    assert {each["id"] for each in planned["layers"]} == actor.layers() - actor.record(session).named_layers()
    assert planned["bytes"] >= 5000
    assert actor("gc") == planned
    assert actor.layers() == actor.record(session).named_layers()


def test_collection_stops_at_a_record_that_it_cannot_read(actor: Actor) -> None:
    other = actor.make("overlay")
    layers = actor.layers()
    (actor.session(other) / "volumes.json").write_text("not ours")
    with pytest.raises(VerbError, match=other):
        actor("gc")
    assert actor.layers() == layers


def test_collection_takes_what_something_that_was_killed_has_left(actor: Actor, session: str) -> None:
    for name in (".diff-x", ".probe-x", ".gone-x"):
        (actor.root / "layers" / name / "tree").mkdir(parents=True)
    actor("gc")
    assert actor.layers() == actor.record(session).named_layers()


def test_folders_that_their_owner_cannot_enter_are_removed_too(actor: Actor, session: str) -> None:
    locked = actor.top(session) / "locked"
    (locked / "inner").mkdir(parents=True)
    (locked / "inner/file").write_text("x")
    (locked / "inner").chmod(0)
    locked.chmod(0o500)
    actor("purge", session=session)
    assert actor.layers() == set()


def test_collection_removes_deleted_sessions_only_by_name(actor: Actor, session: str) -> None:
    other = actor.make("overlay")
    for each in (session, other):
        actor("trash", session=each)
    assert actor("gc", over=[session])["sessions"] == [session]
    assert [entry.name for entry in (actor.root / "trash").iterdir()] == [other]


def test_a_session_whose_record_is_lost_keeps_its_layers(actor: Actor, session: str) -> None:
    (actor.session(session) / "manifest.json").write_text("{}")
    (actor.session(session) / "volumes.json").unlink()
    layers = actor.layers()
    for verb in ("gc", "make"):
        with pytest.raises(VerbError, match=r"volumes"):
            actor(verb, session=session, driver="overlay")
    assert actor.layers() == layers
