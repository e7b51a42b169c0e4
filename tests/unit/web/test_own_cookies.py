"""The cookies that count as Berth's own."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from broker.errors import InvalidInputError
from broker.web.own_cookies import read_own_cookie

NAME = "__Host-Http-berth-portal"


def _read(*lines: bytes) -> str:
    return read_own_cookie(Headers(raw=[(b"cookie", line) for line in lines]), NAME)


@pytest.mark.parametrize(
    "line", [b"__Host-Http-berth-portal=a", b"b=c; __Host-Http-berth-portal=a", b"b;\t __Host-Http-berth-portal=a \t;c"]
)
def test_own_cookie_is_read(line: bytes) -> None:
    assert _read(line) == "a"


@pytest.mark.parametrize(
    "prefix", [b"\xa0", b"\x85", b"\x0b", b"\x0c", b"\x1c", b"\xc2\xa0", b"\xe3\x80\x80", b"x", b'"']
)
def test_cookie_that_a_sibling_can_set_is_not_ours(prefix: bytes) -> None:
    """Browsers know no `__Host-` behind such bytes, but `str.strip` removes some of them."""
    assert _read(prefix + b"__Host-Http-berth-portal=bob") == ""
    assert _read(b"a=b; " + prefix + b"__Host-Http-berth-portal=bob; __Host-Http-berth-portal=a") == "a"
    assert _read(b"__Host-Http-berth-portal" + prefix + b"=bob") == ""


@pytest.mark.parametrize("name", [b"__host-http-berth-portal", b"__Host-Http-berth", b"", b"__Host-Http-berth-portal2"])
def test_other_names_are_not_ours(name: bytes) -> None:
    assert _read(name + b"=a") == ""


def test_two_of_a_name_are_refused() -> None:
    one = b"__Host-Http-berth-portal=a"
    for lines in ((one + b"; " + one,), (one, one), (one + b"; __Host-Http-berth-portal",)):
        with pytest.raises(InvalidInputError, match="has sent two cookies __Host-Http-berth-portal"):
            _read(*lines)
