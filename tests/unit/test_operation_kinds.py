"""The table of operations is complete: an operation that is added to only one part of the program is found here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from broker.controller.launcher_client.client import LauncherClient
from broker.controller.reconcile.manifests import ManifestWriter
from broker.controller.reconcile.operation_steps import OperationExecutor
from broker.controller.reconcile.own_changes import OwnChangesFinder
from broker.controller.registry.manifest import Unfinished
from broker.controller.registry.operation import Operation
from broker.schema.operations import OPERATIONS, permission_for
from broker.text.status import describe_operation

ROOT = Path(__file__).parents[2]
SOURCES = {file: file.read_text(encoding="utf-8") for file in sorted((ROOT / "broker").rglob("*.py"))}


def test_every_operation_has_steps() -> None:
    async def unused(*_: Any) -> Any:  # noqa: ANN401 - stands for callbacks of several types
        raise AssertionError

    launcher, manifests = LauncherClient.__new__(LauncherClient), ManifestWriter.__new__(ManifestWriter)
    own = OwnChangesFinder.__new__(OwnChangesFinder)
    executor = OperationExecutor(launcher, manifests, own_changes=own, note=unused, store_volumes=unused)
    assert executor.steps.keys() == OPERATIONS.keys()


def test_operations_that_are_requested_are_those_of_the_table() -> None:
    requested = {verb for text in SOURCES.values() for verb in re.findall(r'\bOperation\.create\(\s*"([\w-]+)"', text)}
    assert requested == OPERATIONS.keys()


def test_only_the_table_distinguishes_operations() -> None:
    """`berth exec --root` alone looks for the two operations that it has requested itself."""
    comparing = re.compile(r'\bverb (?:[!=]=|(?:not )?in) [{("]')
    found = {file.name for file, text in SOURCES.items() if file.parent.name != "launcher" and comparing.search(text)}
    assert found <= {"exec_root.py"}, "give OperationKind a field instead"


@pytest.mark.parametrize("verb", OPERATIONS)
def test_people_read_what_an_operation_does(verb: str) -> None:
    assert describe_operation(verb) == OPERATIONS[verb].participle


def test_participles_differ() -> None:
    assert len({kind.participle for kind in OPERATIONS.values()}) == len(OPERATIONS)


@pytest.mark.parametrize("verb", OPERATIONS)
def test_the_manifest_takes_the_operations_that_it_has_to_record(verb: str) -> None:
    record = Operation.create(verb, "alice").record()
    if OPERATIONS[verb].in_manifest:
        assert Unfinished.model_validate(record).verb == verb
    else:
        with pytest.raises(ValidationError, match="verb"):
            Unfinished.model_validate(record)


@pytest.mark.parametrize("verb", OPERATIONS)
def test_an_operation_on_a_session_needs_a_permission(verb: str) -> None:
    if verb == "promote":  # its request names an environment
        assert OPERATIONS[verb].permission is None
    else:
        assert permission_for(verb) is OPERATIONS[verb].permission


@pytest.mark.parametrize("verb", OPERATIONS)
def test_the_pages_list_every_operation(verb: str) -> None:
    behaviour = (ROOT / "docs/behaviour.md").read_text(encoding="utf-8")
    api = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    lists = [
        *re.findall(r"changes home and system \(([^)]*)\)", behaviour),
        *re.findall(r"`<operation>` is ([^.]*)\.", behaviour),
        *re.findall(r"^\| `verb` \| text \| ([^|]*) \|$", api, re.MULTILINE),
    ]
    assert len(lists) == 3
    assert all(f"`{verb}`" in text for text in lists)
