"""The channels of a profile, `<store>/<name>/channels.json`: read, checked, and written as text.

A user who may write to the store may have written anything into the file. So it is read up to a limit, and every
value is checked. Times are seconds since the epoch.

The standard library alone: the launcher's children import this.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from profiles.errors import DamagedChannelsError
from profiles.strict_json import load_strict_json
from profiles.userfile import UnfitFileError, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CHANNELS_FILE = "channels.json"
STABLE, CANDIDATE, PREVIOUS = "stable", "candidate", "previous"
CHANNELS = (STABLE, CANDIDATE, PREVIOUS)
DEPRECATED, RETIRED = "deprecated", "retired"
VERSION_STATES = (DEPRECATED, RETIRED)
CHANNEL_ACTIONS = ("promote", "rollback", "deprecate", "retire", "undo")
PASSED, FORCED = "passed", "forced"
TEST_RESULTS = ("", PASSED, FORCED)
CHANNELS_FORMAT = 1

MAX_CHANNELS_BYTES = 512 * 1024
"""Limit of the file. With the limits below, it has at most 450 KiB."""
MAX_CHANNEL_EVENTS = 200
"""Events that the history keeps, the latest."""
MAX_FORCED_EVENTS = 100
"""Promotions without a passed test among them: these are kept for ever, so no more can be made."""
MAX_VERSION_STATES = 200
"""Versions of a profile that are deprecated or retired."""
MAX_REASON_CHARS = 200
MAX_WHO_CHARS = 64
MAX_CHANNEL_TIME_S = 1e11
"""Seconds since the epoch; a larger number would be milliseconds by mistake."""

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}")


@dataclass(frozen=True, slots=True)
class VersionState:
    """The state of a version that should not be used any more, or must not."""

    state: str
    """One of VERSION_STATES."""
    since: float
    reason: str
    instead: str = ""
    """The version to use instead; empty if none was named."""

    def describe(self, label: str) -> str:
        """Return a sentence about the version `label`, without the full stop."""
        use = f"; use {label.partition('@')[0]}@{self.instead} instead" if self.instead else ""
        day = time.strftime("%Y-%m-%d", time.localtime(self.since))
        return f"{label} is {self.state} since {day}: {self.reason}{use}"


@dataclass(frozen=True, slots=True)
class ChannelEvent:
    """One change of the channels, as its author's command has recorded it."""

    at: float
    who: str
    action: str
    """One of CHANNEL_ACTIONS."""
    version: str
    channel: str = ""
    """The channel that was moved; empty for a change of a version's state."""
    before: str = ""
    """The version that the channel named before."""
    reason: str = ""
    test: str = ""
    """PASSED or FORCED for a promotion that needs a passed test; else empty."""


@dataclass(frozen=True, slots=True)
class Channels:
    """The content of the file, checked."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """The version that each channel names."""
    states: Mapping[str, VersionState] = field(default_factory=dict)
    """The versions that are deprecated or retired."""
    history: tuple[ChannelEvent, ...] = ()
    """Oldest first."""

    def of_version(self, version: str) -> list[str]:
        """Return the channels that name this version."""
        return [channel for channel in CHANNELS if self.versions.get(channel) == version]

    def is_retired(self, version: str) -> bool:
        return version in self.states and self.states[version].state == RETIRED

    def text(self) -> str:
        """Return the content of the file."""
        states = {version: asdict(state) for version, state in self.states.items()}
        history = [asdict(event) for event in self.history]
        data = {"format": CHANNELS_FORMAT, "channels": dict(self.versions), "versions": states, "history": history}
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


NO_CHANNELS = Channels()


@dataclass(frozen=True, slots=True)
class ChannelsText:
    """The file as it was read."""

    path: Path
    text: str | None = None
    """None: there is no such file."""
    problem: str = ""
    """The reason why the file could not be read."""

    def parse(self) -> Channels:
        """Return the channels; none without a file. Raises DamagedChannelsError."""
        if self.problem:
            raise _damaged_channels(self.problem)
        return NO_CHANNELS if self.text is None else parse_channels(self.text, self.path)


def read_channels_text(profile: Path, *, own: bool) -> ChannelsText:
    """Read the file in the directory of a profile. With `own` it must be the caller's own and no link."""
    path = profile / CHANNELS_FILE
    try:
        return ChannelsText(path, read_text(path, MAX_CHANNELS_BYTES, own=own, follow=not own))
    except FileNotFoundError:
        return ChannelsText(path)
    except UnfitFileError as error:
        return ChannelsText(path, problem=f"{path} {error.strerror}")
    except OSError as error:
        return ChannelsText(path, problem=f"{path} cannot be read: {error.strerror}")


def parse_channels(text: str, path: Path) -> Channels:
    """Check the content of the file. Raises DamagedChannelsError."""
    try:
        return _channels(load_strict_json(text))
    except ValueError as error:
        raise _damaged_channels(f"{path} is damaged: {error}") from error


def check_reason(text: str) -> str:
    """Return the reason of a change; ValueError unless it is one line of printable characters, as it is shown."""
    if not (text.isprintable() and text.strip() and len(text) <= MAX_REASON_CHARS):
        raise ValueError(f"a reason is one line of 1 to {MAX_REASON_CHARS} printable characters")
    return text.strip()


def _channels(data: object) -> Channels:
    found = _object(data, "the file", {"format", "channels", "versions", "history"})
    if found.get("format") != CHANNELS_FORMAT or isinstance(found["format"], bool):
        raise ValueError(f"`format` is not {CHANNELS_FORMAT}; another version of Berth may have written it")
    named = _object(found.get("channels", {}), "`channels`", set(CHANNELS))
    states = _object(found.get("versions", {}), "`versions`")
    history = found.get("history", [])
    if not isinstance(history, list):
        raise ValueError("`history` is no list")
    if len(history) > MAX_CHANNEL_EVENTS or len(states) > MAX_VERSION_STATES:
        raise ValueError("it has too many entries")
    return Channels(
        {channel: _version(version, f"`channels.{channel}`") for channel, version in named.items()},
        {_version(version, "`versions`"): _state(state) for version, state in states.items()},
        tuple(_event(event) for event in history),
    )


def _state(data: object) -> VersionState:
    found = _object(data, "a version's state", {"state", "since", "reason", "instead"})
    state = found.get("state")
    if state not in VERSION_STATES:
        raise ValueError("a version's `state` is neither `deprecated` nor `retired`")
    reason = _line(found.get("reason"), "reason", MAX_REASON_CHARS)
    if not reason:
        raise ValueError("a version's state has no `reason`")
    return VersionState(state, _time(found.get("since")), reason, _optional_version(found, "instead"))


def _event(data: object) -> ChannelEvent:
    keys = {"at", "who", "action", "version", "channel", "before", "reason", "test"}
    found = _object(data, "an event of `history`", keys)
    action, channel = found.get("action"), found.get("channel", "")
    if action not in CHANNEL_ACTIONS or channel not in ("", *CHANNELS):
        raise ValueError("an event of `history` has an unknown `action` or `channel`")
    test = found.get("test", "")
    if not isinstance(test, str) or test not in TEST_RESULTS:
        raise ValueError("an event of `history` has an unknown `test`")
    return ChannelEvent(
        _time(found.get("at")),
        _line(found.get("who"), "who", MAX_WHO_CHARS),
        action,
        _version(found.get("version"), "`version` of an event"),
        channel,
        _optional_version(found, "before"),
        _line(found.get("reason", ""), "reason", MAX_REASON_CHARS),
        test,
    )


def _object(data: object, what: str, keys: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{what} is no object")
    if keys is not None and not data.keys() <= keys:
        raise ValueError(f"{what} has unknown entries")
    return data


def _version(value: object, what: str) -> str:
    if not isinstance(value, str) or not _VERSION.fullmatch(value):
        raise ValueError(f"{what} has no version")
    return value


def _optional_version(found: Mapping[str, Any], key: str) -> str:
    return _version(found[key], f"`{key}`") if found.get(key, "") != "" else ""


def _time(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < MAX_CHANNEL_TIME_S:
        raise ValueError("it has a time that is none")
    return float(value)


def _line(value: object, key: str, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ValueError(f"`{key}` is not one line of at most {most} printable characters")
    return value


def _damaged_channels(message: str) -> DamagedChannelsError:
    return DamagedChannelsError(
        message, hint="NAME@VERSION starts without this file; the store's owner repairs it, or removes it"
    )
