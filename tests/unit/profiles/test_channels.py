"""The file of a profile's channels, also a hostile one, and the version that each reference means."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from profiles.errors import (
    ChannelConflictError,
    DamagedChannelsError,
    DamagedImageError,
    NoSuchImageError,
    ProfileError,
)
from profiles.image.catalog import OWN, SITE, Catalog
from profiles.image.channels_file import (
    CHANNELS_FILE,
    MAX_CHANNEL_EVENTS,
    MAX_CHANNELS_BYTES,
    MAX_VERSION_STATES,
    ChannelEvent,
    Channels,
    VersionState,
    parse_channels,
)
from profiles.image.own_store import OwnStore
from profiles.image.store import Store, Stores
from profiles.recipe.spec import parse_profile
from tests.fakes.core import publish
from tests.fakes.sif import squashfs_sif

if TYPE_CHECKING:
    from pathlib import Path

EVENT = {"at": 1.0, "who": "alice", "action": "promote", "version": "1", "channel": "stable", "reason": "tested"}
STATE = {"state": "retired", "since": 1.0, "reason": "old"}


def with_event(**changed: Any) -> str:  # noqa: ANN401 - also wrong values
    return json.dumps({"format": 1, "history": [EVENT | changed]})


def with_state(**changed: Any) -> str:  # noqa: ANN401 - also wrong values
    return json.dumps({"format": 1, "versions": {"1": STATE | changed}})


HOSTILE = {
    "empty": "",
    "truncated": '{"format": 1, "channels": {"sta',
    "number": "1",
    "list": "[]",
    "null": "null",
    "no format": "{}",
    "newer": '{"format": 2}',
    "true": '{"format": true}',
    "twice": '{"format": 1, "channels": {"stable": "1", "stable": "2"}}',
    "unknown entry": '{"format": 1, "then": "rm"}',
    "unknown channel": '{"format": 1, "channels": {"nightly": "1"}}',
    "channels list": '{"format": 1, "channels": ["1"]}',
    "path": '{"format": 1, "channels": {"stable": "../../alice/x"}}',
    "slash": '{"format": 1, "channels": {"stable": "1/2"}}',
    "hidden": '{"format": 1, "channels": {"stable": ".1.deleted"}}',
    "newline": '{"format": 1, "channels": {"stable": "1\\n2"}}',
    "no version": '{"format": 1, "channels": {"stable": ""}}',
    "long version": json.dumps({"format": 1, "channels": {"stable": "1" * 65}}),
    "version number": '{"format": 1, "channels": {"stable": 1}}',
    "version null": '{"format": 1, "channels": {"stable": null}}',
    "digits": '{"format": ' + "9" * 5000 + "}",
    "infinite": '{"format": 1, "history": [{"at": Infinity}]}',
    "overflow": with_event().replace("1.0", "1e999"),
    "negative time": with_event(at=-1),
    "unknown test": with_event(test="green"),
    "test list": with_event(test=[]),
    "milliseconds": with_event(at=1.7e12),
    "true time": with_event(at=True),
    "escape": with_event(who="\x1b[2Jroot"),
    "direction": with_event(reason="\u202etxt.exe"),
    "surrogate": with_event(reason="\ud800"),
    "lines": with_event(reason="a\nb"),
    "long reason": with_event(reason="x" * 201),
    "action": with_event(action="sudo"),
    "event channel": with_event(channel="nightly"),
    "event list": '{"format": 1, "history": [[]]}',
    "history object": '{"format": 1, "history": {}}',
    "long history": json.dumps({"format": 1, "history": [EVENT] * (MAX_CHANNEL_EVENTS + 1)}),
    "many states": json.dumps({"format": 1, "versions": {str(n): STATE for n in range(MAX_VERSION_STATES + 1)}}),
    "state": with_state(state="gone"),
    "state list": with_state(state=[]),
    "no reason": with_state(reason=""),
    "instead": with_state(instead="../2"),
    "state name": json.dumps({"format": 1, "versions": {"../1": STATE}}),
    "deep": '{"a":' * 100_000,
    "deep list": "[" * 100_000,
    "large": " " * (MAX_CHANNELS_BYTES + 1),
    "bytes": "\ufffd\x00",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """base in the versions 1, 2 and 10."""
    store = Store(tmp_path / "store")
    for version in ("1", "2", "10"):
        publish(store, version=version, content=version.encode())
    return store


def write(store: Store, text: str, name: str = "base") -> None:
    (store.path / name / CHANNELS_FILE).write_text(text)


def name_channels(store: Store, states: dict[str, VersionState] | None = None, **versions: str) -> None:
    write(store, Channels(versions, states or {}).text())


def found(store: Store, wanted: str | None = None) -> str:
    return store.find("base", wanted).version


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_named_and_blocks_no_version(store: Store, text: str) -> None:
    write(store, text)
    for wanted in (None, "stable", "candidate", "previous"):
        with pytest.raises(DamagedChannelsError) as caught:
            store.find("base", wanted)
        assert str(store.path / "base" / CHANNELS_FILE) in caught.value.message
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 400
        assert "NAME@VERSION" in caught.value.hint
    assert found(store, "2") == "2"
    contents = store.contents()
    assert len(contents.images) == 3
    assert [CHANNELS_FILE in error.message for error in contents.damaged] == [True]


def test_link_in_an_own_store_is_not_followed(tmp_path: Path) -> None:
    own = OwnStore(tmp_path / "own")
    publish(own, content=squashfs_sif())
    (tmp_path / "secret").write_text('{"format": 1}')
    (own.path / "base" / CHANNELS_FILE).symlink_to(tmp_path / "secret")
    with pytest.raises(DamagedChannelsError, match="is a symbolic link"):
        own.find("base")
    assert own.find("base", "1").version == "1"


def test_content_survives_its_text(tmp_path: Path) -> None:
    full = Channels(
        {"stable": "2", "previous": "1"},
        {"1": VersionState("deprecated", 5.0, "ä" * 200, "2")},
        tuple(ChannelEvent(1.5, "alice", "promote", "2", "stable", "1", "𝄞" * 200) for _ in range(200)),
    )
    assert parse_channels(full.text(), tmp_path) == full


def test_largest_content_is_within_the_limit() -> None:
    wide = "𝄞" * 200
    state = VersionState("deprecated", 1764547200.123456, wide, "1" * 64)
    event = ChannelEvent(1764547200.123456, "a" * 64, "deprecate", "1" * 64, "candidate", "1" * 64, wide)
    largest = Channels({}, {f"{n:064}": state for n in range(MAX_VERSION_STATES)}, (event,) * MAX_CHANNEL_EVENTS)
    assert len(largest.text().encode()) <= MAX_CHANNELS_BYTES


def test_without_a_file_the_name_means_the_newest(store: Store) -> None:
    assert found(store) == "10"
    with pytest.raises(NoSuchImageError, match="has no stable version") as caught:
        store.find("base", "stable")
    assert "base@10" in caught.value.hint


def test_each_reference_means_its_version(store: Store) -> None:
    name_channels(store, stable="2", candidate="10", previous="1")
    assert [found(store, each) for each in (None, "stable", "candidate", "previous", "10")] == [
        "2",
        "2",
        "10",
        "1",
        "10",
    ]


def test_without_stable_the_name_means_the_newest_that_is_not_retired(store: Store) -> None:
    name_channels(store, {"10": VersionState("retired", 1, "broken")}, candidate="10")
    assert [found(store), found(store, "candidate"), found(store, "10")] == ["2", "10", "10"]
    name_channels(store, {version: VersionState("retired", 1, "broken") for version in ("1", "2", "10")})
    assert found(store) == "10"


def test_channel_of_a_version_that_is_gone_is_an_error_and_no_other_version(store: Store) -> None:
    name_channels(store, stable="3", candidate="2")
    for wanted in (None, "stable"):
        with pytest.raises(DamagedChannelsError, match="stable of the profile base is 3, and there is no") as caught:
            store.find("base", wanted)
        assert "there is: 1, 2, 10" in caught.value.hint
    assert found(store, "candidate") == "2"


def test_version_that_is_called_like_a_channel_keeps_its_name(store: Store) -> None:
    """Stores of earlier versions of Berth may have one."""
    old = publish(store, version="3")
    old.directory.rename(old.directory.with_name("stable"))
    file = old.directory.with_name("stable") / "image.json"
    file.write_text(file.read_text().replace('"version": "3"', '"version": "stable"'))
    assert found(store, "stable") == "stable"
    assert len(store.contents().images) == 4
    name_channels(store, stable="2")
    assert [found(store, "stable"), found(store)] == ["stable", "2"]
    assert Catalog({SITE: Stores([store])}).find_digest("base", "stable", old.digest).digest == old.digest


@pytest.mark.parametrize("word", ["stable", "candidate", "previous"])
def test_no_new_version_gets_the_name_of_a_channel(store: Store, tmp_path: Path, word: str) -> None:
    with pytest.raises(ChannelConflictError, match="which is a channel"):
        store.stage("base", word)
    with pytest.raises(ProfileError, match=r"recipe:2: no version can be called"):
        parse_profile(f"name: base\nversion: {word}\nbase: debian:sid\n", tmp_path / "recipe")


def test_first_store_of_an_owner_that_names_a_channel_decides(store: Store, tmp_path: Path) -> None:
    second = Store(tmp_path / "second")
    for version in ("2", "11"):
        publish(second, version=version, content=version.encode())
    both = Stores([store, second])
    assert both.find("base").version == "11"
    name_channels(second, stable="2", candidate="11")
    assert [both.find("base").version, both.find("base", "candidate").version] == ["2", "11"]
    name_channels(store, stable="1")
    assert [both.find("base").version, both.find("base", "candidate").version] == ["1", "11"]
    write(second, "{")
    assert both.find("base").version == "1"


def test_channels_are_of_each_owner(store: Store, tmp_path: Path) -> None:
    own = Store(tmp_path / "own")
    publish(own, version="5", content=b"five")
    catalog = Catalog({SITE: Stores([store]), OWN: Stores([own])})
    name_channels(store, stable="2", candidate="10")
    name_channels(own, candidate="5")
    assert catalog.find("site/base").version == "2"
    assert [catalog.find("own/base", each).version for each in (None, "candidate")] == ["5", "5"]
    name_channels(own)
    assert catalog.find("base", "candidate").version == "10"
    write(own, "{")
    with pytest.raises(DamagedImageError) as caught:
        catalog.find("base", "candidate")
    assert "site/base@candidate is the site profile" in caught.value.hint
    assert catalog.find("base", "10").version == "10"


def test_standing_says_channels_state_and_default(store: Store) -> None:
    name_channels(store, {"1": VersionState("deprecated", 1, "old", "10")}, stable="2", previous="1")
    catalog = Catalog({SITE: Stores([store])})
    said = {
        image.version: (each.channels, each.state and each.state.state, each.is_default)
        for image, each in zip(store.images(), catalog.standings(store.images()), strict=True)
    }
    assert said == {
        "1": (["previous"], "deprecated", False),
        "2": (["stable"], None, True),
        "10": ([], None, False),
    }
    assert [catalog.replacement(store.find("base", each)) for each in ("1", "10", "2")] == ["base@10", "base@2", ""]
