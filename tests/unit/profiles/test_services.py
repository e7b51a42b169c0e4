"""Services: the schema of a profile and of the user's files, and the lines that the session reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from broker.text.ide_links import LINKS
from profiles.errors import ProfileError
from profiles.recipe.service import (
    MAX_SERVICES,
    RESERVED_NAMES,
    Service,
    format_services,
    parse_service_file,
    parse_services,
)
from profiles.recipe.spec import parse_profile

FILE = Path("services.d/mine.yaml")


def test_service_needs_a_name_and_a_command() -> None:
    found = parse_service_file("services: [{name: web-1, command: serve}]", FILE)
    assert found == [Service(name="web-1", command="serve", socket="web-1.sock")]
    assert (found[0].icon, found[0].shell, found[0].ready, found[0].title) == ("web", False, "", "")


def test_reserved_names_are_the_ides_of_berth_open() -> None:
    assert LINKS.keys() == RESERVED_NAMES


@pytest.mark.parametrize("name", ["a--b", "a-", "-a", "A", "1a", "a_b", "a.b", "ä", "a" * 40, "vscode", "zed", ""])
def test_names_that_are_no_label_are_refused(name: str) -> None:
    with pytest.raises(ProfileError, match=r"`services\.0\.name`"):
        parse_service_file(f"services: [{{name: '{name}', command: serve}}]", FILE)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("command: ''", "must not be empty"),
        (f"command: {'x' * 1001}", "must have at most 1000 characters"),
        ('command: "a\\nb"', "must be one line"),
        ("socket: x.socket", "ends in `.sock`"),
        ("socket: ../x.sock", "ends in `.sock`"),
        ("socket: /x.sock", "ends in `.sock`"),
        ("icon: cat", "must be `terminal`, `notebook`, `code`, `chart` or `web`"),
        ("shell: perhaps", "must be `true` or `false`"),
        (f"title: {'x' * 61}", "must have at most 60 characters"),
        ("redy: x", "did you mean `ready`"),
    ],
)
def test_wrong_values_are_refused_with_the_rule(field: str, message: str) -> None:
    command = "" if field.startswith("command") else "command: serve, "
    with pytest.raises(ProfileError) as refused:
        parse_service_file(f"services: [{{name: web, {command}{field}}}]", FILE)
    assert message in f"{refused.value}{refused.value.hint}"


def test_all_faults_of_a_profile_are_reported_at_once() -> None:
    text = """\
name: p
version: 1
base: debian:sid
services:
  - {name: vscode, command: x}
  - {name: a--b, command: x}
  - {name: web}
  - {name: other, command: x, port: 80}
"""
    with pytest.raises(ProfileError) as refused:
        parse_profile(text, Path("profile.yaml"))
    assert str(refused.value).count("\n  line ") == 4
    for part in ("vscode is the name of an IDE", "single `-`", "`services.2.command` is missing", "unknown key `port`"):
        assert part in str(refused.value)


@pytest.mark.parametrize("second", ["{name: web, command: x}", "{name: b, command: x, socket: web.sock}"])
def test_names_and_sockets_are_distinct(second: str) -> None:
    with pytest.raises(ProfileError, match="is given twice"):
        parse_service_file(f"services: [{{name: web, command: x}}, {second}]", FILE)


def test_number_of_services_is_limited() -> None:
    services = "".join(f"  - {{name: s{number}, command: x}}\n" for number in range(MAX_SERVICES + 1))
    with pytest.raises(ProfileError, match="must have at most 24 items"):
        parse_service_file(f"services:\n{services}", FILE)


def test_lines_for_the_session_keep_every_value() -> None:
    services = [
        Service(name="a", command="x='=' y=\"$BERTH_SOCKET\" \\ ; true", socket="z.sock", shell=True, icon="terminal"),  # noqa: S604 - no process is started
        Service(name="b", command="ü\u2028ü", socket="b.sock", title="A = B", ready="test -e /x"),
    ]
    assert parse_services(format_services(services)) == services
    assert parse_services("") == []


def test_lines_of_another_release_are_read_as_far_as_known() -> None:
    text = "name=a\nlater=1\ncommand=x\nsocket=a.sock\n\n"
    assert parse_services(text) == [Service(name="a", command="x", socket="a.sock")]
    with pytest.raises(ValidationError):
        parse_services("name=a\nsocket=a.sock\n\n")
