"""The guest's program by itself: its lease, its keys, and what it lets out."""

from __future__ import annotations

import ast
import re
import sys
import time
from pathlib import Path

import pytest

from broker.controller.credentials.guests import ROLE_PROGRAMS
from broker.job import guest
from broker.job.bundle import session_script
from broker.job.guest import lease, viewer
from broker.job.guest.lease import GuestLease
from broker.job.guest.viewer import KEYS, clip_row

MODULES = sorted(path for path in Path(str(guest.__file__)).parent.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_program_is_one_that_python_3_8_understands_and_imports_no_library(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    names = set()
    for node in ast.walk(ast.parse(text, feature_version=(3, 8))):
        if isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
        elif isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
    own = {name for name in names if name.startswith("broker")}
    assert own <= {f"broker.job.guest.{each.stem}" for each in MODULES}
    assert {name.partition(".")[0] for name in names - own} <= sys.stdlib_module_names
    assert text in session_script().decode()


@pytest.mark.parametrize("path", ["/run/berth/node/show", "/run/berth/node/programs", *ROLE_PROGRAMS.values()])
def test_no_other_part_of_the_session_has_a_file_of_that_name(path: str) -> None:
    script = session_script().decode().replace(f"exec python3 -I {path}", "")
    name = re.escape(path.rpartition("/")[2])
    others = re.findall(rf"(?:/run/berth/node|NODE_DIR/run)/{name}(?![\w./-])", script)
    assert not others


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
    assert all(len(code) <= viewer.MAX_KEY_BYTES for code in KEYS)
    assert KEYS[b"q"] == viewer.QUIT
    assert KEYS[b"\x1b[5~"] == viewer.PAGE_UP


@pytest.mark.parametrize("role", ROLE_PROGRAMS)
def test_lease_lasts_while_it_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    now, file = 1000.0, tmp_path / "session/guests"
    file.parent.mkdir()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    found = GuestLease(tmp_path, role, "bob")
    assert "cannot be read" in found.problem()
    for number in range(4):
        file.write_text(f"lease {time.time_ns() + number}\n{role} bob\n")
        assert found.problem() == ""
        now += lease.LEASE_S - 1
        assert found.problem() == ""
    now += 1
    assert "has not confirmed your access" in found.problem()
    file.write_text(f"lease {time.time_ns()}\n{role} bob\n")
    assert found.problem() == ""
    others = [f"{each} bob" for each in ROLE_PROGRAMS if each != role]
    for line in (f"{role} bobby", f"{role}  bob", f"# {role} bob", *others):
        file.write_text(f"lease {time.time_ns()}\n{line}\n")
        assert found.problem() == "your access has ended"
