"""Files of a user's that the launcher's children read, replaced by what must not be read: each is refused in words or,
where it is worth nothing, passed over; at once, and in little memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.launcher.arguments import (
    KeysArguments,
)
from broker.launcher.request import RequestContext, VerbError
from broker.launcher.session_verbs import KEYS_LIMIT, keys
from profiles.userfile import UnfitFileError, read_bytes, read_records, read_tail
from tests.component.launcher.user_files import ACCOUNT, ID, KINDS, USER, World, give, outcome, replaced, running

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Call = Coroutine[Any, Any, object]
    Kind = Callable[[Path], None]


@pytest.mark.parametrize("kind", KINDS)
def test_unfit_files_are_refused_at_once_in_little_memory(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as launcher:
            world = World(launcher, tmp_path / "shared" / USER)
            await world.build()
            came, expected = {}, {}
            for name, (path, call, wanted) in world.calls(kind).items():
                expected[name] = wanted
                with replaced(path, kind) if path else contextlib.nullcontext():
                    came[name] = await outcome(call())
            assert came == expected

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_authorized_keys_that_are_unfit_let_nobody_in(kind: Kind, tmp_path: Path) -> None:
    place = RequestContext(
        pwd.struct_passwd((*ACCOUNT[:5], str(tmp_path), ACCOUNT[6])), "/{user}", "sbatch", "session.sh"
    )
    (tmp_path / ".ssh").mkdir()
    file = tmp_path / ".ssh/authorized_keys"
    assert keys(place, KeysArguments()) == {"text": ""}
    (tmp_path / "dotfiles").write_text("a key\n")
    file.symlink_to(tmp_path / "dotfiles")  # as sshd(8) reads it too
    assert keys(place, KeysArguments()) == {"text": "a key\n"}
    (tmp_path / "dotfiles").write_text("x" * (KEYS_LIMIT + 1))
    with pytest.raises(VerbError, match="larger than 256 KiB") as failure:
        keys(place, KeysArguments())
    assert failure.value.kind == "refused"
    file.unlink()
    kind(file)
    with pytest.raises(VerbError) as failure:
        keys(place, KeysArguments())
    assert (failure.value.kind, str(file) in str(failure.value)) == ("refused", True)


def test_a_file_is_counted_while_it_is_read(tmp_path: Path) -> None:
    """stat(2) reports too small a size for a file in /proc, or for one that grows."""
    with pytest.raises(UnfitFileError, match="larger than 1 KiB"):
        read_bytes("/proc/self/status", 1024)
    file = tmp_path / "file"
    file.write_bytes(b"one\0two\0three")
    assert read_bytes(file, 13) == b"one\0two\0three"
    assert read_tail(file, 5) == b"three"
    assert list(read_records(file, 13, longest=5)) == [b"one", b"two"]
    for content in (b"one\0\0", b"four\0", b"x" * 100_000):
        file.write_bytes(content)
        with pytest.raises(UnfitFileError, match="damaged"):
            list(read_records(file, 2**20, longest=3))


def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    if os.geteuid() == 0:
        give(file)
    else:
        file = Path("/etc/passwd")
    with pytest.raises(UnfitFileError, match="belongs to another user"):
        read_bytes(file, 2**20)
    read_bytes(file, 2**20, own=False)


NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "changes",
    [
        {"done": NESTED},
        {"snapshots": NESTED},
        {"last_number": "1e999"},
        {"snapshots": '[{"number": [], "at": 1, "consistency": "", "profile": "", "version": "", "digest": "",'
         ' "home": [], "system": []}]'},
        {"snapshots": '[{"number": 1, "at": NaN, "consistency": "", "profile": "", "version": "", "digest": "",'
         ' "home": [], "system": []}]'},
        {"handover": '{"submission": [], "home": "", "system": ""}'},
    ],
)  # fmt: skip
def test_a_record_of_the_right_size_and_wrong_content_is_refused(changes: dict[str, str], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as launcher:
            await launcher.prepare(USER, ID, "overlay")
            path = tmp_path / "shared" / USER / "sessions" / ID / "volumes.json"
            record = json.loads(path.read_text())
            (key, value), *_ = changes.items()
            path.write_text(json.dumps(record | {key: "HERE"}).replace('"HERE"', value))
            assert await outcome(launcher.snapshots(USER, ID)) == "files"

    asyncio.run(scenario())
