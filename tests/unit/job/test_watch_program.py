"""The guest's program by itself: its lease, its keys, and what it lets out."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

from broker.job.guest import show, watch
from broker.job.guest.watch import KEYS, GuestLease, clip_row


@pytest.mark.parametrize("program", [show, watch])
def test_program_is_one_that_python_3_8_understands(program: object) -> None:
    ast.parse(Path(str(vars(program)["__file__"])).read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize(
    ("row", "columns", "shown"),
    [
        ("plain", 80, "plain"),
        ("plain", 3, "pla"),
        ("\x1b[31mred\x1b[0m!", 80, "\x1b[31mred\x1b[0m!"),
        ("\x1b[38:2::1:2:3mx", 80, "\x1b[38:2::1:2:3mx"),
        ("日本", 3, "日"),
        ("e\u0301x", 2, "e\u0301x"),
        ("\x0elqk\x0flqk", 80, "┌─┐lqk"),
        ("a\x1b]8;;http://x\x1b\\b\x1b]8;;\x07c", 80, "abc"),
        ("a\x1b]52;c;aGk=\x07b", 80, "a]52;c;aGk=b"),
        ("a\x1b[2Jb\x1b[6n", 80, "a[2Jb[6n"),
        ("a\x07\x08\x9b31mb\x7f", 80, "a31mb"),
    ],
)
def test_only_text_and_colours_come_out(row: str, columns: int, shown: str) -> None:
    assert clip_row(row, columns) == shown


def test_keys_are_exact_and_none_is_the_beginning_of_pasted_text() -> None:
    assert len(KEYS) == len({*KEYS}) > 10
    assert b"" not in KEYS
    assert all(len(code) <= watch.MAX_KEY_BYTES for code in KEYS)
    assert KEYS[b"q"] == watch.QUIT
    assert KEYS[b"\x1b[5~"] == watch.PAGE_UP


def test_lease_lasts_while_it_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, file = 1000.0, tmp_path / "guests"
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lease = GuestLease(file, "bob")
    assert "cannot be read" in lease.problem()
    for number in range(4):
        file.write_text(f"lease {time.time_ns() + number}\nwatch bob\n")
        assert lease.problem() == ""
        now += watch.LEASE_S - 1
        assert lease.problem() == ""
    now += 1
    assert "has not confirmed your access" in lease.problem()
    file.write_text(f"lease {time.time_ns()}\nwatch bob\n")
    assert lease.problem() == ""
    for line in ("watch bobby", "use bob", "watch  bob", "# watch bob"):
        file.write_text(f"lease {time.time_ns()}\n{line}\n")
        assert lease.problem() == "your access has ended"
