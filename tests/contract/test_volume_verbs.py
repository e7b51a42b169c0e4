"""The verbs about volumes: what they answer, what they refuse, and what a kill at any labelled point leaves."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import stat
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from broker.launcher.request import VerbError
from broker.names import new_id
from broker.volumes import live_snapshot
from broker.volumes.content import ACCESS_LISTS
from broker.volumes.errors import VolumeError
from broker.volumes.live_snapshot import CopyOutcome
from broker.volumes.operations import ImageVersion, SnapshotNote
from broker.volumes.record import MAX_AUTOMATIC_SNAPSHOTS, Handover, Record, Volume
from broker.volumes.storage import Storage
from tests.volumes.access_list import access_list
from tests.volumes.act import IMAGE, OTHER, Actor, DiedError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.volumes.storage import SessionVolumes


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An image's squashfs, as requests name it."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "tree/etc").mkdir(parents=True)
    (folder / "tree/etc/motd").write_text("of the image")
    (folder / "tree/etc/gone").write_text("of the image")
    command = ["mksquashfs", f"{folder}/tree", f"{folder}/squashfs", "-quiet", "-no-progress"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return {"image": str(folder / "squashfs"), "offset": 0}


@pytest.fixture
def actor(tmp_path: Path) -> Actor:
    (tmp_path / "user").mkdir(mode=0o700)
    return Actor(tmp_path / "user")


@pytest.fixture
def session(actor: Actor) -> str:
    made = actor.make("overlay")
    (actor.top(made) / "file").write_text("first")
    return made


def taken(actor: Actor, session: str, **request: Any) -> int:  # noqa: ANN401 - JSON
    return int(actor("snapshot", session=session, operation=new_id(), **request)["snapshot"]["number"])


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
    """What is left when the job of a session in root mode was asked for a copy, and the verb has published it."""

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


def test_old_automatic_snapshots_are_forgotten_and_labelled_ones_never(actor: Actor, session: str) -> None:
    taken(actor, session, label="mine")
    for _ in range(MAX_AUTOMATIC_SNAPSHOTS + 3):
        taken(actor, session, automatic=True)
    kept = actor.record(session).snapshots
    assert [each.number for each in kept] == [1, *range(5, MAX_AUTOMATIC_SNAPSHOTS + 5)]


# Deletion and collection


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


# Looking


def test_diff_tells_files_since_a_snapshot(actor: Actor, session: str, image: dict[str, Any]) -> None:
    (actor.top(session) / "gone").write_text("x")
    (actor.top(session) / "folder").mkdir()
    (actor.top(session) / "folder/same").write_text("x")
    number = taken(actor, session)
    top = actor.top(session)
    (top / "file").write_text("other")
    (top / "new").write_text("x")
    os.mknod(top / "gone", stat.S_IFCHR)
    told = actor("diff", session=session, snapshot=number, **image)
    assert [(each["change"], each["path"]) for each in told["files"]] == [("M", "file"), ("D", "gone"), ("A", "new")]
    assert told["packages"] == []


@pytest.mark.parametrize("driver", ["overlay", "reflink", "plain"])
def test_diff_is_right_with_every_driver(actor: Actor, driver: str, image: dict[str, Any]) -> None:
    session = actor.make(driver)
    for name in ("same", "file", "gone"):
        (actor.top(session) / name).write_text("x")
    os.setxattr(actor.top(session) / "same", ACCESS_LISTS[0], access_list(4))  # which copies of the verb's cannot keep
    number = taken(actor, session)
    top, system = actor.top(session), actor.top(session, "system")
    (top / "file").write_text("changed")
    (top / "new").write_text("x")
    os.mknod(top / "gone", stat.S_IFCHR) if driver == "overlay" else (top / "gone").unlink()
    (system / "etc").mkdir()
    (system / "etc/motd").write_text("changed")
    (system / "etc/made").write_text("x")
    os.mknod(system / "etc/gone", stat.S_IFCHR)
    told = actor("diff", session=session, snapshot=number, **image)
    assert [(each["change"], each["volume"], each["path"]) for each in told["files"]] == [
        ("M", "home", "file"),
        ("D", "home", "gone"),
        ("A", "home", "new"),
        ("D", "system", "etc/gone"),
        ("A", "system", "etc/made"),
        ("M", "system", "etc/motd"),
    ]
    over_profile = actor("diff", session=session, snapshot=None, **image)["files"]
    assert {each["path"] for each in over_profile if each["volume"] == "home"} >= {"same", "file", "new"}


def test_diff_tells_what_shows_again_of_the_image(actor: Actor, session: str, image: dict[str, Any]) -> None:
    etc = actor.top(session, "system") / "etc"
    etc.mkdir()
    (etc / "motd").write_text("changed")
    (etc / "made").write_text("x")
    os.mknod(etc / "gone", stat.S_IFCHR)
    number = taken(actor, session)
    actor("switch", session=session, operation=new_id(), to=OTHER)
    told = actor("diff", session=session, snapshot=number, **image)["files"]
    assert [(each["change"], each["path"]) for each in told] == [
        ("A", "etc/gone"),
        ("D", "etc/made"),
        ("M", "etc/motd"),
    ]


def test_diff_between_two_states_of_what_the_image_has(actor: Actor, session: str, image: dict[str, Any]) -> None:
    """What was gone, or changed, in the snapshot already is no news; what the image shows again is."""
    system = actor.top(session, "system")
    (system / "etc").mkdir()
    os.mknod(system / "etc/gone", stat.S_IFCHR)
    first = taken(actor, session)
    (actor.top(session, "system") / "etc").mkdir()
    (actor.top(session, "system") / "etc/motd").write_text("changed")
    second = taken(actor, session)
    told = actor("diff", session=session, snapshot=second, **image)
    assert told["files"] == []
    again = actor.top(session, "system")
    again.joinpath("etc").mkdir()
    os.mknod(again / "etc/gone", stat.S_IFCHR)
    told = actor("diff", session=session, snapshot=first, **image)
    assert [(each["change"], each["path"]) for each in told["files"]] == [("M", "etc/motd")]
    actor("switch", session=session, operation=new_id(), to=OTHER, fresh=True)
    told = actor("diff", session=session, snapshot=second, **image)
    assert [(each["change"], each["path"]) for each in told["files"]] == [("A", "etc/gone"), ("M", "etc/motd")]


def test_diff_tells_packages(actor: Actor, session: str, image: dict[str, Any]) -> None:
    number = taken(actor, session)
    status = actor.top(session, "system") / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: bash\nStatus: install ok installed\nVersion: 6\nDescription: x\n y\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: new\nStatus: install ok installed\nVersion: 1:2-3\n"
    )
    info = actor.top(session, "system") / "opt/venv/lib/python3.14/site-packages/My_Tool-1.2.dist-info"
    info.mkdir(parents=True)
    base = "apt bash:amd64 5\napt gone 1\npip other==2\n"
    told = actor("diff", session=session, snapshot=number, base_packages=base, **image)
    assert told["packages"] == [
        {"name": "bash", "before": "5", "after": "6"},
        {"name": "gone", "before": "1", "after": ""},
        {"name": "new", "before": "", "after": "1:2-3"},
        {"name": "pip my-tool", "before": "", "after": "1.2"},
    ]


def test_size_counts_shared_layers_once(actor: Actor, session: str) -> None:
    (actor.top(session) / "big").write_bytes(bytes(100_000))
    number = taken(actor, session)
    (actor.top(session) / "more").write_bytes(bytes(50_000))
    told = actor("size", session=session)
    lines = {line["what"]: line for line in told["lines"]}
    assert lines["home"]["total"] >= 150_000
    assert 50_000 <= lines["home"]["own"] < 100_000
    assert lines[f"snapshot {number}"]["own"] == 0  # the home needs it too
    assert 150_000 <= told["bytes"] < 250_000
    assert told["free"] > 0


def test_verify_notices_any_change_of_an_immutable_layer(actor: Actor, session: str) -> None:
    (actor.top(session) / "other").write_text("stays")
    taken(actor, session)
    layer = actor.root / "layers" / actor.record(session).home.layers[0] / "tree"
    assert actor("verify", session=session) == {"layers": 1, "recorded": 1, "problems": []}
    assert actor("verify", session=session) == {"layers": 1, "recorded": 0, "problems": []}
    when = (layer / "file").stat().st_mtime_ns
    (layer / "file").write_text("f1rst")
    os.utime(layer / "file", ns=(when, when))
    (layer / "added").write_text("x")
    (layer / "other").unlink()
    problems = actor("verify", session=session)["problems"]
    assert [problem.partition(": ")[2] for problem in problems] == [
        "other: is missing",
        "added: is new",
        "file: has changed",
    ]


# Records


# From one job to the next


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
    assert snapshot.reason == "the end of a job"
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
    """Of the running job: its top goes on, so the live copy is a layer of its own."""
    hand_over(actor, session, 2)
    (actor.session(session) / "run").mkdir()
    actor("copy", session=session, operation=new_id(), job_id=7)
    (actor.top(session) / "file").write_text("later")
    begin(actor, session, 2)
    found = actor.record(session)
    assert [each.reason for each in found.snapshots] == ["", "the end of a job"]
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


def test_a_record_reads_back_as_it_was_written() -> None:
    made = Record("overlay", Volume(new_id(), (new_id(), new_id()), new_id()), Volume(new_id()))
    assert Record.parse(made.text()) == made
    to = Handover(3, new_id(), new_id(), **IMAGE)
    handing = replace(made, handover=to)
    assert Record.parse(handing.text()) == handing
    assert f'"mount 3": "overlay;home={to.home},{made.home.top},' in handing.text()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', Record("overlay", Volume("../up"), Volume(new_id())).text()],
)
def test_what_is_no_record_is_said(text: str) -> None:
    with pytest.raises(VolumeError, match=r"volumes\.json"):
        Record.parse(text)


# Death at labelled points

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

        monkeypatch.setattr(live_snapshot, "_job_is_gone", copied)

    monkeypatch.setattr(live_snapshot, "_signal_job", signalled)
    request: dict[str, Any] = {"job_id": 1, "image": ImageVersion(**IMAGE), "note": SnapshotNote()}
    operation = new_id()
    with pytest.raises(KeyboardInterrupt):
        live_snapshot.snapshot_running(Storage(actor.root), session, operation, **request)
    made = live_snapshot.snapshot_running(Storage(actor.root), session, operation, **request)["snapshot"]
    assert made["pause"] == 0.2
    assert made["home"] == (asked[1],)


def test_ids_of_layers_and_operations_never_repeat() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    assert all(first[:10] <= second[:10] for first, second in itertools.pairwise(ids))
