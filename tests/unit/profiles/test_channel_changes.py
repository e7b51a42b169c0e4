"""Changes of channels: whole or not at all, one at a time, recorded, and only by those who may write to the store."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from profiles.errors import (
    ChannelConflictError,
    DamagedChannelsError,
    NoSuchImageError,
    StoreError,
    UntestedImageError,
)
from profiles.image.channel_changes import LOCK_FILE, ChannelAuthor, ProfileChannels, channels_lock
from profiles.image.channels_file import CHANNELS_FILE, FORCED, MAX_CHANNEL_EVENTS, VersionState
from profiles.image.store import Store
from tests.deadlines import DEADLINE_S
from tests.fakes.core import publish

ALICE = ChannelAuthor("alice", 5.0, "tested")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    for version in ("1", "2", "3"):
        publish(store, version=version)
    return store


def channels(store: Store) -> ProfileChannels:
    return ProfileChannels.read(store, "base")


def promote(store: Store, version: str, channel: str = "stable") -> dict[str, str]:
    return dict(channels(store).promote(version, channel, ALICE).versions)


def content(store: Store) -> bytes | None:
    file = store.path / "base" / CHANNELS_FILE
    return file.read_bytes() if file.exists() else None


def test_promotion_moves_stable_to_previous_and_rollback_takes_it_back(store: Store) -> None:
    assert promote(store, "1") == {"stable": "1"}
    assert promote(store, "3", "candidate") == {"stable": "1", "candidate": "3"}
    assert promote(store, "3") == {"stable": "3", "candidate": "3", "previous": "1"}
    assert channels(store).rollback(ALICE).versions == {"stable": "1", "candidate": "3", "previous": "3"}
    history = [
        (each.who, each.action, each.version, each.channel, each.before) for each in channels(store).seen.history
    ]
    assert history == [
        ("alice", "promote", "1", "stable", ""),
        ("alice", "promote", "3", "candidate", ""),
        ("alice", "promote", "3", "stable", "1"),
        ("alice", "rollback", "1", "stable", "3"),
    ]
    assert (channels(store).seen.history[0].at, channels(store).seen.history[0].reason) == (5.0, "tested")


def test_history_keeps_the_latest(store: Store) -> None:
    promote(store, "1")
    promote(store, "2")
    for number in range(MAX_CHANNEL_EVENTS + 3):
        channels(store).rollback(ChannelAuthor("alice", float(number)))
    history = channels(store).seen.history
    assert (len(history), history[-1].at) == (MAX_CHANNEL_EVENTS, MAX_CHANNEL_EVENTS + 2.0)


def test_history_never_loses_a_forced_promotion(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiles.image.channel_changes.MAX_CHANNEL_EVENTS", 6)
    monkeypatch.setattr("profiles.image.channel_changes.MAX_FORCED_EVENTS", 2)
    promote(store, "1")
    forced = replace(ALICE, test=FORCED)
    channels(store).promote("2", "stable", forced)
    for _ in range(10):
        channels(store).rollback(ALICE)
    history = channels(store).seen.history
    assert [each.test for each in history] == [FORCED, "", "", "", "", ""]
    channels(store).promote("3", "stable", forced)
    before = content(store)
    with pytest.raises(ChannelConflictError, match="2 promotions without a passed test"):
        channels(store).promote("1", "stable", forced)
    assert content(store) == before
    assert sum(each.test == FORCED for each in channels(store).seen.history) == 2


def test_condition_is_looked_at_under_the_lock(store: Store) -> None:
    def refuse() -> None:
        with pytest.raises(ChannelConflictError, match="just now"), channels_lock(store, "base"):
            pass
        raise UntestedImageError("base@1 was not tested")

    with pytest.raises(UntestedImageError):
        channels(store).promote("1", "stable", ALICE, require=refuse)
    assert content(store) is None


def test_refused_changes_change_nothing(store: Store) -> None:
    promote(store, "1")
    channels(store).set_state("2", VersionState("retired", 1, "old"), "retire", ALICE)
    before = content(store)
    with pytest.raises(ChannelConflictError, match="is stable already"):
        promote(store, "1")
    with pytest.raises(ChannelConflictError, match=r"base@2 is retired since .*: old"):
        promote(store, "2")
    with pytest.raises(NoSuchImageError, match="has no version 4"):
        promote(store, "4")
    with pytest.raises(ChannelConflictError, match="has no previous version"):
        channels(store).rollback(ALICE)
    with pytest.raises(ChannelConflictError, match="is stable, and cannot be retired"):
        channels(store).set_state("1", VersionState("retired", 1, "old"), "retire", ALICE)
    with pytest.raises(ChannelConflictError, match="base@3 is not deprecated"):
        channels(store).clear_state("3", "deprecated", ALICE)
    with pytest.raises(ChannelConflictError, match="base@2 is not deprecated"):
        channels(store).clear_state("2", "deprecated", ALICE)
    assert content(store) == before


def test_retired_version_leaves_candidate_and_previous(store: Store) -> None:
    promote(store, "1")
    promote(store, "2")
    promote(store, "1", "candidate")
    changed = channels(store).set_state("1", VersionState("retired", 1, "old"), "retire", ALICE)
    assert changed.versions == {"stable": "2"}
    assert channels(store).clear_state("1", "retired", ALICE).states == {}


def test_version_that_a_channel_names_is_not_deleted(store: Store) -> None:
    promote(store, "1")
    promote(store, "2")
    for version, remedy in (("1", "profile retire base@1"), ("2", "another version first")):
        with pytest.raises(ChannelConflictError, match=r"cannot be deleted") as caught:
            store.delete("base", version)
        assert remedy in caught.value.hint
    store.delete("base", "3")
    (store.path / "base" / CHANNELS_FILE).write_text("{")
    with pytest.raises(DamagedChannelsError):
        store.delete("base", "1")
    assert store.versions("base") == ["1", "2"]


def test_last_version_takes_its_directory_along(store: Store) -> None:
    for version in ("1", "2", "3"):
        store.delete("base", version)
    assert list(store.path.iterdir()) == []


def test_damaged_file_is_never_written_over(store: Store) -> None:
    (store.path / "base" / CHANNELS_FILE).write_text("{")
    with pytest.raises(DamagedChannelsError):
        promote(store, "1")
    assert content(store) == b"{"


def test_version_called_like_a_channel_stays_reachable(store: Store) -> None:
    (store.path / "base" / "previous").mkdir()
    with pytest.raises(ChannelConflictError, match="has a version that is called previous"):
        promote(store, "1")
    assert content(store) is None
    assert promote(store, "1", "candidate") == {"candidate": "1"}


def test_change_of_what_was_seen_meanwhile_is_refused_and_does_nothing(store: Store) -> None:
    late = channels(store)
    promote(store, "1")
    before = content(store)
    with pytest.raises(ChannelConflictError, match="changed at the same time"):
        late.promote("2", "stable", ALICE)
    assert content(store) == before


RACE = """
import sys
from dataclasses import replace
from pathlib import Path
from profiles.errors import ChannelConflictError
from profiles.image.channel_changes import ChannelAuthor, ProfileChannels
from profiles.image.store import Store
profile = ProfileChannels.read(Store(Path(sys.argv[1])), "base")
print("read", flush=True)
sys.stdin.readline()
try:
    profile.promote(sys.argv[2], "stable", ChannelAuthor("alice", 1.0))
    print("won")
except ChannelConflictError as error:
    print(error.message)
"""


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(store: Store) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(store.path), version],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        for version in ("1", "2")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "read\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=DEADLINE_S)[0].strip() for racer in racers]
    assert said.count("won") == 1
    assert "nothing was done" in next(each for each in said if each != "won")
    assert channels(store).seen.versions == {"stable": ("1", "2")[said.index("won")]}
    assert len(channels(store).seen.history) == 1


def test_change_during_another_is_told_at_once(store: Store) -> None:
    with (
        channels_lock(store, "base"),
        pytest.raises(ChannelConflictError, match=r"another user changes base in .* just now"),
    ):
        promote(store, "1")
    assert content(store) is None
    assert promote(store, "1") == {"stable": "1"}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_kill_leaves_the_old_or_the_new_channels(store: Store, moment: str) -> None:
    promote(store, "1")
    old = content(store)
    child = os.fork()
    if child == 0:
        rename = Path.replace

        def killed(self: Path, target: Path) -> Path:
            if moment == "after":
                rename(self, target)
            os.kill(os.getpid(), signal.SIGKILL)
            return self

        Path.replace = killed  # type: ignore[assignment,method-assign]
        promote(store, "2")
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert channels(store).seen.versions == (
        {"stable": "1"} if moment == "before" else {"stable": "2", "previous": "1"}
    )
    assert (content(store) == old) is (moment == "before")
    promote(store, "3")
    left = {path.name for path in (store.path / "base").iterdir()}
    assert left == {"1", "2", "3", CHANNELS_FILE, LOCK_FILE}


def test_full_file_system_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(store, "1")
    before = content(store)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("profiles.image.channel_changes.os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        promote(store, "2")
    assert content(store) == before
    assert not list((store.path / "base").glob(f".{CHANNELS_FILE}.*"))


def test_lock_is_for_those_who_may_write(store: Store) -> None:
    """A user who can open the lock can also hold it for ever."""
    promote(store, "1")
    lock = store.path / "base" / LOCK_FILE
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    (store.path / "base").chmod(0o2770)
    promote(store, "2")
    assert stat.S_IMODE(lock.stat().st_mode) == 0o660
    assert stat.S_IMODE((store.path / "base" / CHANNELS_FILE).stat().st_mode) == 0o644


def test_link_instead_of_the_lock_is_not_followed(store: Store, tmp_path: Path) -> None:
    (store.path / "base" / LOCK_FILE).symlink_to(tmp_path / "made")
    with pytest.raises(StoreError, match="cannot change the channels"):
        promote(store, "1")
    assert not (tmp_path / "made").exists()
