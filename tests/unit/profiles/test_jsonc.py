"""The reader of JSON with comments: what it takes, and what it refuses, with line and column."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.devcontainer.jsonc import MAX_JSON_BYTES, MAX_JSON_DEPTH, parse_jsonc, read_jsonc
from profiles.errors import ProfileError

FILE = Path("devcontainer.json")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_all_json_is_read_as_json_is(value: object, plain: bool, indent: int | None) -> None:
    assert parse_jsonc(json.dumps(value, ensure_ascii=plain, indent=indent), FILE).data == value


def test_comments_and_trailing_commas_are_skipped() -> None:
    text = '// first\n{ /* one */ "a": [1, 2,], // two\n  "b": "// no comment /* */",\n}\n// last'
    document = parse_jsonc(text, FILE)
    assert document.data == {"a": [1, 2], "b": "// no comment /* */"}
    assert document.places["a",] == (2, 13)
    assert document.places["a", 1] == (2, 22)
    assert document.line(("b", "nothing")) == 3


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf{}")
    assert read_jsonc(file).data == {}


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("", "1:1", "the text ends"),
        ("// only a comment", "1:18", "the text ends"),
        ('{"a": 1', "1:8", '"," or "}" is expected'),
        ('{"a" 1}', "1:6", '":" is expected'),
        ('{\n "a": 1,\n "a": 2}', "3:2", "`a` is given twice, first in line 2, column 2"),
        ("{'a': 1}", "1:2", "a key in double quotes"),
        ("{a: 1}", "1:2", "a key in double quotes"),
        ("{,}", "1:2", "a key in double quotes"),
        ("[,]", "1:2", "a value is expected"),
        ("[1,,2]", "1:4", "a value is expected"),
        ("[1 2]", "1:4", '"," or "]" is expected'),
        ("[1] [2]", "1:5", "more follows"),
        ("{} x", "1:4", "more follows"),
        ("/* no end", "1:1", "a comment has no end"),
        ('["a\nb"]', "1:2", "a text has no end"),
        ('["\t"]', "1:2", "control character"),
        (r'["\x41"]', "1:2", "wrong escape"),
        (r'["\ud800"]', "1:2", "half of a surrogate pair"),
        ('["a', "1:2", "a text has no end"),
        ("[01]", "1:2", "is not a number"),
        ("[+1]", "1:2", "a value is expected"),
        ("[.5]", "1:2", "a value is expected"),
        ("[1e999]", "1:2", "too large"),
        ("[" + "9" * 40 + "]", "1:2", "is not a number"),
        ("[NaN]", "1:2", "a value is expected"),
        ("[-Infinity]", "1:2", "is not a number"),
        ("[True]", "1:2", "a value is expected"),
        ("[nul]", "1:2", "a value is expected"),
        ("[" * (MAX_JSON_DEPTH + 2), "1:34", "nested deeper"),
        ("[" + "0," * 20_001 + "]", "1:", "more than 20000 values"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, place: str, said: str) -> None:
    with pytest.raises(ProfileError) as caught:
        parse_jsonc(text, FILE)
    assert caught.value.message.startswith(f"devcontainer.json:{place}")
    assert said in caught.value.message


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b" " * (MAX_JSON_BYTES + 1), None])
def test_file_that_is_no_text_too_large_or_missing_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ProfileError):
        read_jsonc(file)


def test_device_and_pipe_are_refused_without_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(ProfileError, match="must be a regular file"):
            read_jsonc(tmp_path / name)
