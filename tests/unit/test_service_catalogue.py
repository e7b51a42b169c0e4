"""The list of services that the program inside a session sends."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from broker import service_catalogue
from broker.client.published_port import published_service
from broker.service_catalogue import NO_PROGRAM_CODE, parse_catalogue, remote_command
from profiles.recipe.service import Service, format_services

if TYPE_CHECKING:
    from pathlib import Path


def answer(*pieces: tuple[str, str, str]) -> bytes:
    text = b"Welcome!\nberth-services 1\n"
    for kind, name, content in pieces:
        text += f"{kind} {len(content.encode())} {name}\n".encode() + content.encode()
    return text


def test_own_services_replace_the_profiles_and_states_are_added() -> None:
    declared = [Service(name="a", command="x", socket="a.sock"), Service(name="b", command="y", socket="b.sock")]
    found = parse_catalogue(
        answer(
            ("declared", "-", format_services(declared)),
            ("state", "a", "waiting 4"),
            ("later", "-", "what a later release says"),
            ("file", "mine.yaml", "services: [{name: b, command: mine}]"),
        )
    )
    assert [(each.service.command, each.own, each.state) for each in found.services.values()] == [
        ("x", False, "waiting"),
        ("mine", True, "stopped"),
    ]
    assert found.services["a"].request == "\n"
    assert found.services["b"].request.startswith("name=b\n")
    assert found.services["b"].request.endswith("\n\n")
    assert found.problems == []


def test_published_ports_replace_other_services_of_their_name() -> None:
    port = published_service(8000, "Mine")
    found = parse_catalogue(
        answer(
            ("published", "-", format_services([port.service])),
            ("state", "port-8000", "ready"),
            ("file", "mine.yaml", "services: [{name: port-8000, command: mine}]"),
        )
    )
    assert found.services == {"port-8000": replace(port, state="ready")}
    assert port.request.startswith("name=port-8000\ncommand=exec /bin/bash /run/berth/node/service relay port-8000\n")


def test_faults_of_own_files_are_named_and_the_others_used() -> None:
    found = parse_catalogue(
        answer(
            ("declared", "-", format_services([Service(name="a", command="x", socket="a.sock")])),
            ("file", "1.yaml", "services: [{name: zed, command: x}]"),
            ("file", "2.yaml", "services: [{name: c, command: x}]"),
            ("file", "3.yaml", "services: [{name: c, command: y}]"),
            ("file", "4.yaml", "services: [{name: d, command: y, socket: a.sock}]"),
            ("file", "5.yaml", "\x00"),
            ("unfit", "6.yaml", ""),
            ("file", "7.yaml", r'services: [{name: e, command: "\UFFFFFFFF"}]'),
            ("file", "8.yaml", r'services: [{name: f, command: "\uD800"}]'),
        )
    )
    assert [*found.services] == ["a", "c"]
    assert found.services["c"].service.command == "x"
    assert [problem.partition(":")[0].partition(" ")[0] for problem in found.problems] == [
        "services.d/1.yaml",
        "services.d/3.yaml",
        "services.d/5.yaml",
        "services.d/6.yaml",
        "services.d/7.yaml",
        "services.d/8.yaml",
        "services.d",
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"berth-services 2\n",
        b"berth-services 1\nx",
        b"berth-services 1\ndeclared many -\n",
        b"berth-services 1\nlater 2 -\nx",
        b"berth-services 1\nlater -10 -\n",
    ],
)
def test_other_answers_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        parse_catalogue(text)


def test_time_to_read_a_list_grows_with_its_length_only() -> None:
    began = time.process_time()
    parse_catalogue(b"berth-services 1\n" + b"later 1 -\nx" * 400_000)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_command_works_in_login_shells_and_reports_a_missing_program(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_catalogue, "PROGRAM", f"{tmp_path}/service")
    command = [shell, "-c", remote_command("attach", "web")]
    assert subprocess.run(command, check=False).returncode == NO_PROGRAM_CODE
    (tmp_path / "service").write_text('echo "$@"')
    assert subprocess.run(command, check=False, capture_output=True, text=True).stdout == "attach web\n"
