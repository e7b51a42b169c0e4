"""Change the channels of a profile: as a whole, by one rename, under a lock, and recorded in the history."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from profiles.errors import ChannelConflictError, NoSuchImageError, StoreError
from profiles.image.channels_file import (
    CANDIDATE,
    CHANNELS_FILE,
    FORCED,
    MAX_CHANNEL_EVENTS,
    MAX_CHANNELS_BYTES,
    MAX_FORCED_EVENTS,
    MAX_VERSION_STATES,
    PREVIOUS,
    RETIRED,
    STABLE,
    ChannelEvent,
    Channels,
    VersionState,
)
from profiles.image.resolution import ChannelSource
from profiles.image.store_files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOCK_FILE = ".channels.lock"
REBUILD_LOCK_FILE = ".rebuild.lock"


class ChannelStore(ChannelSource, Protocol):
    """A store, as far as changes of channels need it."""

    path: Path
    FILE_MODE: int

    def check_writable(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ChannelAuthor:
    """The author of a change, the time and the reason."""

    who: str
    at: float
    """Seconds since the epoch."""
    reason: str = ""
    test: str = ""
    """What the event says about the test of the version: one of channels_file.TEST_RESULTS."""


@dataclass(frozen=True, slots=True)
class ProfileChannels:
    """The channels of one profile in one store, as they were read. A change needs them to be still the same."""

    store: ChannelStore
    name: str
    seen: Channels

    @classmethod
    def read(cls, store: ChannelStore, name: str) -> ProfileChannels:
        """Read them. Raises DamagedChannelsError."""
        return cls(store, name, store.channels(name))

    def promote(
        self,
        version: str,
        channel: str,
        author: ChannelAuthor,
        action: str = "promote",
        require: Callable[[], None] = lambda: None,
    ) -> Channels:
        """Let a channel name this version; the former stable becomes previous.

        `require` is called under the lock, and raises an error if the version must not be promoted. Raises
        ChannelConflictError, NoSuchImageError and StoreError, with nothing changed.
        """
        if taken := {channel, PREVIOUS if channel == STABLE else channel} & {*self.store.versions(self.name)}:
            raise ChannelConflictError(
                f"{self.name} has a version that is called {min(taken)}, so no channel can have this name",
                hint="publish it again under another version, and delete this one",
            )
        before = self.seen.versions.get(channel, "")
        if before == version:
            raise ChannelConflictError(f"{self.name}@{version} is {channel} already")
        if self.seen.is_retired(version):
            raise ChannelConflictError(
                self.seen.states[version].describe(f"{self.name}@{version}"),
                hint=f"`berth profile retire {self.name}@{version} --undo` makes it usable again",
            )
        versions = {**self.seen.versions, channel: version}
        if channel == STABLE and before:
            versions[PREVIOUS] = before
        event = ChannelEvent(author.at, author.who, action, version, channel, before, author.reason, author.test)
        return self._write(replace(self.seen, versions=versions), event, require)

    def rollback(self, author: ChannelAuthor) -> Channels:
        """Promote previous to stable. Raises as `promote`."""
        previous = self.seen.versions.get(PREVIOUS)
        if previous is None:
            raise ChannelConflictError(
                f"the profile {self.name} has no previous version",
                hint=f"`berth profile promote {self.name}@VERSION` names any version stable",
            )
        return self.promote(previous, STABLE, author, "rollback")

    def set_state(self, version: str, state: VersionState, action: str, author: ChannelAuthor) -> Channels:
        """Deprecate or retire a version; a retired one leaves the channels candidate and previous. Raises as `promote`.

        ChannelConflictError also for retiring a stable version.
        """
        versions = dict(self.seen.versions)
        if state.state == RETIRED:
            if versions.get(STABLE) == version:
                raise ChannelConflictError(
                    f"{self.name}@{version} is stable, and cannot be retired",
                    hint=f"`berth profile promote {self.name}@VERSION` another version first",
                )
            versions = {channel: named for channel, named in versions.items() if named != version}
        event = ChannelEvent(author.at, author.who, action, version, reason=author.reason)
        return self._write(replace(self.seen, versions=versions, states={**self.seen.states, version: state}), event)

    def clear_state(self, version: str, state: str, author: ChannelAuthor) -> Channels:
        """Undo that. ChannelConflictError unless the version has this state."""
        if version not in self.seen.states or self.seen.states[version].state != state:
            raise ChannelConflictError(f"{self.name}@{version} is not {state}")
        states = {each: kept for each, kept in self.seen.states.items() if each != version}
        event = ChannelEvent(author.at, author.who, "undo", version, reason=author.reason)
        return self._write(replace(self.seen, states=states), event)

    def _write(self, changed: Channels, event: ChannelEvent, require: Callable[[], None] = lambda: None) -> Channels:
        with channels_lock(self.store, self.name):
            if self.store.channels(self.name) != self.seen:
                raise ChannelConflictError(
                    f"the channels of {self.name} were changed at the same time; nothing was done",
                    hint=f"look at `berth profile history {self.name}`, and try again",
                )
            there = self.store.versions(self.name)
            if event.version not in there:
                raise NoSuchImageError(
                    f"profile {self.name} has no version {event.version}", hint=f"there is: {', '.join(there)}"
                )
            require()
            states = {version: state for version, state in changed.states.items() if version in there}
            if len(states) > MAX_VERSION_STATES:
                raise ChannelConflictError(
                    f"{self.name} has {MAX_VERSION_STATES} versions that are deprecated or retired, and no more can be",
                    hint="delete some of them",
                )
            history = _with_event(changed.history, event, self.name)
            written = Channels(changed.versions, states, history)
            _replace(self.store.path / self.name, written.text(), self.store.FILE_MODE)
            return written


def _with_event(history: tuple[ChannelEvent, ...], event: ChannelEvent, name: str) -> tuple[ChannelEvent, ...]:
    """Return the history with one more event. Where it is full, the oldest leaves that is no forced promotion."""
    forced = sum(each.test == FORCED for each in (*history, event))
    if event.test == FORCED and forced > MAX_FORCED_EVENTS:
        raise ChannelConflictError(
            f"{name} has {MAX_FORCED_EVENTS} promotions without a passed test in its history, and no more can be",
            hint=f"`berth profile test {name}@{event.version}` tests the version",
        )
    rest = MAX_CHANNEL_EVENTS - forced
    usual = [each for each in (*history, event) if each.test != FORCED]
    left = {id(each) for each in usual[: max(0, len(usual) - rest)]}
    return tuple(each for each in (*history, event) if id(each) not in left)


def check_unnamed(store: ChannelStore, name: str, version: str) -> None:
    """Raise ChannelConflictError with the remedy if a channel names the version; DamagedChannelsError."""
    channels = store.channels(name).of_version(version)
    if not channels:
        return
    label = f"{name}@{version}"
    if STABLE in channels or CANDIDATE in channels:
        option = "" if STABLE in channels else f" --channel {CANDIDATE}"
        hint = f"`berth profile promote {name}@VERSION{option}` another version first"
    else:
        hint = f"`berth profile retire {label} --reason TEXT` takes it out of the channel"
    raise ChannelConflictError(f"{label} is {' and '.join(channels)}, and cannot be deleted", hint=hint)


@contextlib.contextmanager
def channels_lock(store: ChannelStore, name: str) -> Iterator[None]:
    """Keep other changes of the channels away. Raises ChannelConflictError at once during one, and StoreError.

    Only those who may write to the directory can open the lock: anybody else could hold it for ever.
    """
    busy = ChannelConflictError(
        f"another user changes {name} in {store.path} just now; nothing was done",
        hint=f"look at `berth profile history {name}`, and try again",
    )
    with _store_lock(store.path / name, LOCK_FILE, busy):
        yield


@contextlib.contextmanager
def rebuild_lock(store: ChannelStore, name: str) -> Iterator[None]:
    """Keep other rebuilds of the profile away. Raises ChannelConflictError at once during one, and StoreError."""
    busy = ChannelConflictError(
        f"{name} in {store.path} is being rebuilt just now, by another process", hint="wait for its end"
    )
    with _store_lock(store.path / name, REBUILD_LOCK_FILE, busy):
        yield


@contextlib.contextmanager
def _store_lock(directory: Path, file: str, busy: ChannelConflictError) -> Iterator[None]:
    try:
        mode = 0o600 | (stat.S_IMODE(directory.stat().st_mode) & 0o020 and 0o060)
        flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(directory / file, os.O_RDWR | flags, mode)
    except OSError as error:
        raise _unwritable_channels(directory, error) from error
    try:
        with contextlib.suppress(PermissionError):  # another user's, who has set it
            os.fchmod(descriptor, mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError as error:
            raise _unwritable_channels(directory, error) from error
        yield
    finally:
        os.close(descriptor)


def remove_if_empty(profile: Path) -> None:
    """Remove the directory of a profile that has nothing left but locks. This process holds that of the channels."""
    if {each.name for each in profile.iterdir()} <= {LOCK_FILE, REBUILD_LOCK_FILE}:
        for lock in (LOCK_FILE, REBUILD_LOCK_FILE):
            (profile / lock).unlink(missing_ok=True)
        profile.rmdir()


def _replace(directory: Path, text: str, mode: int) -> None:
    """Write channels.json as a whole and on disk; the lock is held. StoreError, with nothing changed."""
    path = directory / CHANNELS_FILE
    if len(text.encode()) > MAX_CHANNELS_BYTES:
        raise StoreError(f"{path} would be too large", hint="use shorter reasons, in fewer versions")
    try:
        for left in directory.glob(f".{CHANNELS_FILE}.*"):  # of a process that was killed
            left.unlink(missing_ok=True)
        write_whole(path, text, mode)
    except OSError as error:
        raise _unwritable_channels(directory, error) from error


def _unwritable_channels(directory: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot change the channels in {directory}: {error.strerror}", hint="only those who may write to the store can"
    )
