"""Wrong words of `berth share`, `unshare`, `shares` and `leave`: refused before any request, so nothing changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.command_line import run

if TYPE_CHECKING:
    from tests.fakes.controller import ScriptedController

pytestmark = pytest.mark.usefixtures("dev")

ENDS = (("unshare", "dev", "bob"), ("leave", "alice.dev"))
BAD_GRANTEES = (
    *("", "@", "@@devs", "@-devs", "@.devs", "@domain users", "@devs/x", "@a:b", "@a,b", "@d\u00e9vs", "@a\nb", "@*"),
    *("@" + "g" * 65, "b" * 33, "Bob", "1bob", "bob@site", "bob:x", "bob,carol"),
    *("../bob", "b\u00f6b", "root\x1b[2J", "%2e"),
)
BAD_TIMES = (
    *("", "yesterday", "0s", "-1h", "1", "25:00", "18:61", "2001-01-01", "2001-01-01T00:00", "2026-13-01"),
    *("2026-02-30T10:00", "99999999999d", "1e99h", "nan", "inf", "3d 4h x", "now", "\u0663d"),
)
BAD_SNAPSHOTS = ("", "0", "-1", "03x/..", "../1", "a/b", "1 2", "9" * 40, "\u0661", "1\n", "a" * 300)
BAD_SERVICES = (
    *("", "Board", "a--b", "-a", "a-", "a_b", "a.b", "../a", "vscode"),
    *("b" * 40, "bo ard", "b\u00f6", "x\n"),
)


@pytest.mark.parametrize(
    "words",
    [
        ("dev", "bob"),
        ("dev", "bob", "--role", "operate", "--snapshot", "3"),
        ("dev", "bob", "--role", "operate", "--dry-run"),
        ("dev", "bob", "--snapshot", "0"),
        ("dev", "b ob", "--role", "operate"),
        ("dev", "@", "--role", "operate"),
        ("dev", "-x", "--role", "operate"),
        ("alice.dev", "bob", "--role", "operate"),
        ("dev", "bob", "--role", "operate", "--until", "2001-01-01T00:00"),
        *(("dev", grantee, "--role", "operate") for grantee in BAD_GRANTEES),
        *(("dev", "bob", "--role", "operate", "--until", time) for time in BAD_TIMES),
        *(("dev", "bob", "--snapshot", number, "--yes") for number in BAD_SNAPSHOTS),
        *(("dev", "bob", "--service", service) for service in BAD_SERVICES),
        ("dev", "bob", "--snapshot", "3", "--service", "board"),
        ("dev", "bob", "--service", "board", "--dry-run"),
        ("dev", "bob", "--service", "board", "--yes"),
        ("dev", "bob", "--role", "snapshot"),
        ("dev", "--role", "operate"),
        ("dev", "bob", "carol", "--role", "operate"),
        ("dev", "bob", "--role", "o" * 40),
        ("dev", "bob", "--role", "op\nerate"),
        ("dev", "bob", "--role", ""),
        ("dev", "bob", "--role", "port"),
        ("dev", "bob", "--role", "operate", "--service", "board"),
        ("dev", "bob", "--role", "port", "--service", "Board"),
        ("dev", "bob", "--role", "port", "--service", "a--b"),
        ("dev", "bob", "--role", "port", "--service", "vscode"),
        ("dev", "bob", "--role", "port", "--service", "b" * 40),
        ("dev", "bob", "--role", "port", "--service", ""),
    ],
)
def test_wrong_words_are_refused_before_any_request(controller: ScriptedController, words: tuple[str, ...]) -> None:
    assert run("share", *words).exit_code == 2
    assert [asked for asked in controller.asked if asked[0] != "GET"] == []


@pytest.mark.parametrize(
    "words",
    [
        *(("unshare", "dev", grantee) for grantee in BAD_GRANTEES),
        *(("unshare", "dev", "bob", "--service", service) for service in BAD_SERVICES),
        *(("leave", "alice.dev", "--service", service) for service in BAD_SERVICES),
        *((*end, "--snapshot", number) for end in ENDS for number in ("", "0", "-1", "x", "1.5", "ready")),
        *(
            (*words[:1], name, *words[2:])
            for words in ENDS
            for name in ("Dev", "de v", "dev.", ".dev", "../dev", "a" * 73)
        ),
        ("unshare", "dev"),
        ("unshare", "alice.dev", "bob"),
        ("leave",),
        ("shares", "Dev"),
        ("shares", "alice.dev"),
        ("shares", "dev", "bob"),
        ("list", "--shared", "--all"),
    ],
)
def test_wrong_words_end_no_access(controller: ScriptedController, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert [asked for asked in controller.asked if asked[0] != "GET"] == []
