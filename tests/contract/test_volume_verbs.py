"""The verbs about volumes: what they answer, and what they refuse."""

from __future__ import annotations

import fcntl
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from broker.launcher.request import VerbError
from broker.names import new_id
from broker.volumes import live_snapshot
from broker.volumes.live_snapshot import CopyOutcome
from broker.volumes.record import MAX_AUTOMATIC_SNAPSHOTS
from broker.volumes.storage import Storage
from tests.volumes.act import IMAGE, OTHER, Actor, taken

if TYPE_CHECKING:
    from broker.volumes.storage import SessionVolumes


def test_a_session_begins_with_empty_volumes_that_are_the_users_alone(actor: Actor) -> None:
    session = actor.make("overlay")
    found = actor.record(session)
    assert (found.home.layers, found.system.layers, found.snapshots) == ((), (), ())
    for layer in (found.home.top, found.system.top):
        assert stat.S_IMODE((actor.root / "layers" / layer).stat().st_mode) == 0o700
    assert stat.S_IMODE((actor.root / "layers").stat().st_mode) == 0o700
    assert (
        f'\n "mount": "overlay;home={found.home.top};system={found.system.top}",\n'
        in (actor.session(session) / "volumes.json").read_text()
    )


def test_a_session_keeps_its_volumes_when_it_is_prepared_again(actor: Actor, session: str) -> None:
    before = actor.record(session)
    actor("make", session=session, driver="plain")
    assert actor.record(session) == before


def test_what_the_probe_found_holds_for_a_day(actor: Actor) -> None:
    found = actor("probe")["driver"]
    note = actor.root / "probe.json"
    said = json.loads(note.read_bytes())
    other = "plain" if found != "plain" else "reflink"

    def chosen(**changes: object) -> str:
        note.write_text(json.dumps(said | {"driver": other} | changes))
        return actor.record(actor.make("auto")).driver

    assert chosen() == other
    assert chosen(at=said["at"] - 86401) == found, "too old"
    assert chosen(at=said["at"] + 3600) == found, "of the future"
    assert chosen(where=[*said["where"][:2], "0"]) == found, "of another file system"
    note.write_text("nothing that we wrote")
    assert actor.record(actor.make("auto")).driver == found
    note.write_text(json.dumps(said | {"driver": other}))
    assert actor("probe")["driver"] == found, "who asks what it is gets an answer that was just found"
    assert actor.record(actor.make("auto")).driver == found


def test_a_snapshot_freezes_what_is_there_and_begins_new_tops(actor: Actor, session: str) -> None:
    before = actor.record(session)
    answer = actor("snapshot", session=session, operation=new_id(), label="good")
    after = actor.record(session)
    assert answer["snapshot"]["consistency"] == "stopped"
    assert answer["snapshot"]["home"] == [before.home.top]
    assert after.home.layers == (before.home.top,)
    assert after.home.top not in before.named_layers()
    assert after.system == before.system  # nothing was in it, so nothing had to be frozen
    assert answer["volumes"] == {**answer["volumes"], "layers": {"home": 1, "system": 0}, "snapshots": 1}


def test_rollback_brings_back_what_was_and_keeps_what_is(actor: Actor, session: str) -> None:
    number = taken(actor, session)
    (actor.top(session) / "file").write_text("second")
    answer = actor("rollback", session=session, operation=new_id(), snapshot=number)
    assert actor.shows(session) == {"file": "first"}
    assert answer["before"]["automatic"]
    assert answer["before"]["reason"] == f"before rollback to {number}"
    actor("rollback", session=session, operation=new_id(), snapshot=answer["before"]["number"])
    assert actor.shows(session) == {"file": "second"}


def test_a_clone_and_its_source_go_ways_of_their_own(actor: Actor, session: str) -> None:
    copy = new_id()
    actor.session(copy).mkdir(mode=0o700)
    actor("clone", session=copy, operation=new_id(), source=session, snapshot=None, to=None)
    (actor.top(copy) / "file").write_text("of the clone")
    assert actor.shows(session) == {"file": "first"}
    assert actor.shows(copy) == {"file": "of the clone"}
    assert actor.record(copy).snapshots == ()
    actor("purge", session=session)
    assert actor.shows(copy) == {"file": "of the clone"}


@pytest.mark.parametrize("driver", ["overlay", "reflink", "plain"])
def test_what_root_installed_is_in_snapshots_and_comes_back(actor: Actor, driver: str) -> None:
    session = actor.make(driver)
    (actor.top(session, "system") / "before").write_text("x")
    (actor.top(session, "system").parent / "fuse").touch()
    root_made(actor, session)
    (actor.top(session, "system") / "after").write_text("x")
    (actor.top(session, "system").parent / "fuse").touch()
    kept = taken(actor, session)
    (actor.top(session, "system") / "later").write_text("x")
    actor("rollback", session=session, operation=new_id(), snapshot=kept)
    found = actor.record(session)
    assert actor.shows(session, "system").keys() == {"before", "by-root", "after"}
    assert [(actor.root / "layers" / each / "owners").exists() for each in found.system.layers][1]
    # A top that is no copy is marked when it is mounted.
    copies = found.system.layers if driver == "overlay" else (*found.system.layers, found.system.top)
    marked = [(actor.root / "layers" / each / "fuse").exists() for each in copies]
    assert marked == [True, False, True]
    clone = new_id()
    actor("clone", session=clone, operation=new_id(), source=session, snapshot=kept)
    assert actor.shows(clone, "system").keys() == {"before", "by-root", "after"}


def root_made(actor: Actor, session: str) -> None:
    """Make the layer of a session in root mode, as its job's copy does, and have the verb publish it."""

    def copied(opened: SessionVolumes, *_: object, system: str, **__: object) -> CopyOutcome:
        layer = opened.storage.layers.path(system)
        (layer / "tree").mkdir()
        (layer / "tree/by-root").write_text("x")
        (layer / "owners").write_bytes(b"33 33 644 by-root\0")
        return CopyOutcome("frozen", 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_snapshot, "_request_copy", copied)
        live_snapshot.commit_root_layer(Storage(actor.root), session, new_id(), job_id=1)


def test_a_clone_over_another_image_has_an_empty_system(actor: Actor, session: str) -> None:
    (actor.top(session, "system") / "tool").write_text("x")
    copy = new_id()
    actor.session(copy).mkdir(mode=0o700)
    actor("clone", session=copy, operation=new_id(), source=session, snapshot=None, to=OTHER)
    assert actor.record(copy).system.layers == ()
    assert actor.shows(copy) == {"file": "first"}


def test_switching_there_and_back_brings_the_system_back(actor: Actor, session: str) -> None:
    (actor.top(session, "system") / "tool").write_text("x")
    assert actor("switch", session=session, operation=new_id(), to=OTHER)["system"] == "fresh"
    assert actor.shows(session, "system") == {}
    assert actor.shows(session) == {"file": "first"}
    assert actor("switch", session=session, operation=new_id(), **OTHER, to=IMAGE)["system"] == "kept"
    assert actor.shows(session, "system") == {"tool": "x"}
    actor("switch", session=session, operation=new_id(), to=OTHER)
    assert actor("switch", session=session, operation=new_id(), **OTHER, to=IMAGE, fresh=True)["system"] == "fresh"


def test_an_operation_that_is_asked_for_again_is_done_once(actor: Actor, session: str) -> None:
    operation = new_id()
    first = actor("snapshot", session=session, operation=operation)
    assert actor("snapshot", session=session, operation=operation) == first
    assert len(actor.record(session).snapshots) == 1


def test_labels_are_not_given_twice(actor: Actor, session: str) -> None:
    taken(actor, session, label="good")
    before = actor.record(session)
    with pytest.raises(VerbError, match="labelled good already") as refused:
        taken(actor, session, label="good")
    assert refused.value.kind == "conflict"
    assert actor.record(session) == before


def test_numbers_are_not_used_again(actor: Actor, session: str) -> None:
    assert taken(actor, session) == 1
    actor("forget", session=session, snapshot=1)
    assert taken(actor, session) == 2


def test_while_a_job_has_the_volumes_open_nothing_changes_them(actor: Actor, session: str) -> None:
    number = taken(actor, session)
    before = actor.record(session)
    run = actor.session(session) / "run"
    with (run / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        requests: list[tuple[str, dict[str, Any]]] = [
            ("snapshot", {}),
            ("rollback", {"snapshot": number}),
            ("switch", {"to": OTHER}),
            ("trash", {}),
        ]
        for verb, request in requests:
            with pytest.raises(VerbError) as refused:
                actor(verb, session=session, operation=new_id(), **request)
            assert refused.value.kind == "busy", verb
    assert actor.record(session) == before


@pytest.mark.parametrize(
    ("verb", "request_", "kind"),
    [
        ("rollback", {"snapshot": 99}, "missing"),
        ("rollback", {"snapshot": 0}, "invalid"),
        ("rollback", {"snapshot": "1"}, "invalid"),
        ("snapshot", {"label": "../up"}, "invalid"),
        ("snapshot", {"label": "1"}, "invalid"),
        ("snapshot", {"reason": "a\nb"}, "invalid"),
        ("snapshot", {"operation": "../x"}, "invalid"),
        ("snapshot", {"profile": "../x"}, "invalid"),
        ("switch", {"to": {"profile": "x/y", "version": "1", "digest": ""}}, "invalid"),
        ("clone", {"source": "../../other", "snapshot": None}, "invalid"),
        ("clone", {"source": new_id(), "snapshot": None}, "missing"),
        ("snapshots", {"session": "..", "operation": None}, "invalid"),
        ("diff", {"snapshot": None, "image": "relative", "offset": 0}, "invalid"),
    ],
)
def test_bad_requests_change_nothing(
    actor: Actor, session: str, verb: str, request_: dict[str, Any], kind: str
) -> None:
    before = actor.record(session)
    with pytest.raises(VerbError) as refused:
        actor(verb, **{"session": session, "operation": new_id(), **request_})
    assert refused.value.kind == kind
    assert actor.record(session) == before


def test_a_missing_layer_is_named_before_anything_changes(actor: Actor, session: str) -> None:
    number = taken(actor, session)
    layer = actor.record(session).home.layers[0]
    (actor.root / "layers" / layer).rename(actor.root / "lost")
    before = actor.record(session)
    with pytest.raises(VerbError, match=layer):
        actor("rollback", session=session, operation=new_id(), snapshot=number)
    assert actor.record(session) == before


def test_a_rollback_from_a_state_with_a_missing_layer_leads_to_a_complete_one(actor: Actor, session: str) -> None:
    """Also if nothing was written over the layer, as after a rollback to it that did not start."""
    complete = taken(actor, session)
    (actor.top(session) / "later").write_text("x")
    torn = taken(actor, session)
    actor("rollback", session=session, operation=new_id(), snapshot=torn)
    layer = actor.record(session).home.layers[-1]
    (actor.root / "layers" / layer).rename(actor.root / "lost")
    actor("rollback", session=session, operation=new_id(), snapshot=complete)
    assert layer not in actor.record(session).home.layers


def test_old_automatic_snapshots_are_forgotten_and_labelled_ones_never(actor: Actor, session: str) -> None:
    taken(actor, session, label="mine")
    for _ in range(MAX_AUTOMATIC_SNAPSHOTS + 3):
        taken(actor, session, automatic=True)
    kept = [each.number for each in actor.record(session).snapshots]
    assert kept == [1, *range(5, MAX_AUTOMATIC_SNAPSHOTS + 5)]
    numbers = actor("snapshots", session=session)["volumes"]["numbers"]
    assert numbers == {"first": 1, "last": MAX_AUTOMATIC_SNAPSHOTS + 4, "existing": kept}


def test_what_a_job_has_mounted_is_not_joined_under_it(actor: Actor, session: str, image: dict[str, Any]) -> None:
    taken(actor, session)
    (actor.top(session) / "later").write_text("x")
    taken(actor, session)
    before = actor.record(session)
    with (actor.session(session) / "run/lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(VerbError) as refused:
            actor("flatten", session=session, operation=new_id(), **image)
    assert refused.value.kind == "busy"
    assert actor.record(session) == before


def test_a_system_is_never_taken_to_lie_over_another_image(actor: Actor, session: str, image: dict[str, Any]) -> None:
    taken(actor, session)
    actor("switch", session=session, operation=new_id(), to=OTHER)
    for verb, request in (("snapshot", {}), ("flatten", image), ("rollback", {"snapshot": 1})):
        with pytest.raises(VerbError, match="another image") as refused:
            actor(verb, session=session, operation=new_id(), **request)
        assert refused.value.kind == "conflict", verb


def test_the_way_back_to_another_image_is_not_forgotten(actor: Actor, session: str) -> None:
    (actor.top(session, "system") / "tool").write_text("x")
    actor("switch", session=session, operation=new_id(), to=OTHER)
    for _ in range(MAX_AUTOMATIC_SNAPSHOTS + 3):
        taken(actor, session, automatic=True, **OTHER)
    assert actor("switch", session=session, operation=new_id(), **OTHER, to=IMAGE)["system"] == "kept"
    assert actor.shows(session, "system") == {"tool": "x"}
