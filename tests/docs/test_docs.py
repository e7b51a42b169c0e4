"""The documentation says what the program does: generated pages are fresh, nothing is missing, links lead somewhere."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import pytest

from broker.cli.errors import InterruptedWaitError
from broker.config.settings import load_config
from broker.errors import BerthError, ExitCode
from broker.schema.sessions import SessionState
from broker.text.status import describe_state
from profiles.recipe.service import parse_service_file
from profiles.recipe.spec import load_profile as profile_of
from tests.docs import api_page
from tests.docs.fields import descriptions
from tests.docs.generate import ROOT, commands, pages, settings
from tests.fakes.rows import make_session

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])


def headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", sorted(pages()), ids=lambda path: path.name)
def test_generated_pages_are_fresh(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == pages()[page], "stale: run `make docs` and commit what it writes"


def test_every_command_has_its_heading() -> None:
    names = {name for name, _ in commands()}
    assert {"berth start", "berth profile build", "berth ssh-config", "berth registry rebuild"} <= names
    assert names <= set(headings(DOCS / "reference" / "cli.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    """In its code, `berth` is followed by options, a placeholder or a command."""
    known = {name.split()[1] for name, _ in commands() if " " in name}
    block = re.compile(r"^ *```\w*\n(.*?)^ *```$|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
    code = "\n".join(text for found in block.findall(page.read_text(encoding="utf-8")) for text in found)
    named = set(re.findall(r"(?:^|[$#] )berth ([a-z][a-z-]*)", code, re.MULTILINE))
    assert named - known == set()


def test_help_fits_a_terminal() -> None:
    """In the lists of commands nothing is cut off, and no line is wider than a terminal usually is."""
    for name, context in commands():
        context.terminal_width = context.max_content_width = 80
        text = context.command.get_help(context)
        assert "..." not in text.partition("Commands:")[2], name
        assert all(len(line) <= 88 for line in text.splitlines()), name
        assert "\b" not in text, name
        assert "\\t" not in text, name


def test_every_setting_has_its_heading_and_says_what_it_is_for() -> None:
    found = headings(DOCS / "reference" / "config.md")
    for whole, section, name in settings():
        assert whole in found
        assert descriptions(section)[name]


def test_every_call_of_the_api_has_its_heading() -> None:
    """In the reference and, in short, among the contracts of the architecture."""
    found = headings(DOCS / "reference" / "api.md")
    contracts = _text("architecture.md")
    calls = list(api_page.calls())
    assert ("POST", "/v1/sessions/{name}/start") in [(method, path) for method, path, _ in calls]
    for method, path, _ in calls:
        assert f"{method} {path}" in found
        assert f"`{method} {path}" in contracts, f"{method} {path}"


def test_every_exit_code_has_its_row() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (?:`([\w-]+)`)? ?\|", _text("reference/exit-codes.md"), re.MULTILINE)
    assert [(int(code), name) for code, name, _ in rows] == [(code.value, code.name) for code in ExitCode]
    reasons = {int(code): reason for code, _, reason in rows if reason}
    kinds: set[type[BerthError]] = {BerthError, *BerthError.__subclasses__()}
    ours = {kind for kind in kinds if kind.__module__ == "broker.errors"} | {InterruptedWaitError}
    assert reasons == {kind.exit_code.value: kind.reason for kind in ours}


def test_every_state_is_explained() -> None:
    text = _text("behaviour.md")
    assert [state for state in SessionState if f"`{state.value}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    prose = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in {_anchor(each) for each in headings(place)}, f"{page.name}: {target}"


def _anchor(heading: str) -> str:
    """Return the anchor of a heading: in small letters, blanks as hyphens, without punctuation."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_fences_stand_alone(page: Path) -> None:
    """Nothing follows a fence's language on its line, and every block is closed."""
    fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert all(re.fullmatch(r"\w*", opening) for opening in fences[::2])
    assert fences[1::2] == [""] * (len(fences) // 2)
    assert len(fences) % 2 == 0


def test_every_yaml_block_is_a_configuration_or_a_profile(tmp_path: Path) -> None:
    """A document with a name, or of checks, is a profile, a list of services a user's file, another one settings."""
    (tmp_path / "solver.conf").touch()  # which a profile of the reference brings along
    kinds = set[str]()
    for page in PAGES:
        for block in re.findall(r"^ *```yaml\n(.*?)^ *```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            file = tmp_path / "block.yaml"
            file.write_text(textwrap.dedent(block), encoding="utf-8")
            if block.startswith("services:"):
                kinds |= {type(each).__name__ for each in parse_service_file(file.read_text("utf-8"), file)}
                continue
            if block.startswith("checks:"):
                head = "name: solver\nversion: 1\nbase: debian:sid\nresources: {gres: gpu}\n"
                file.write_text(head + block, encoding="utf-8")
            is_profile = block.startswith(("name:", "checks:"))
            read: BaseModel = profile_of(file) if is_profile else load_config(file)
            kinds.add(type(read).__name__)
    assert kinds == {"Config", "Profile", "Service"}


def test_the_gateways_words_are_quoted_as_they_are() -> None:
    for state, reason in (("queued", "Priority"), ("stopped", ""), ("failed", "…")):
        view = make_session("alice", state=SessionState(state), reason=reason).view()
        assert f"`dev is {describe_state(view, 0)}" in _text("howto/ssh.md")


def test_every_decision_has_a_number_of_its_own() -> None:
    files = sorted(file for file in (DOCS / "adr").glob("*.md") if file.name[0].isdigit())
    numbers = [int(file.name[:4]) for file in files]
    assert len(numbers) == len(set(numbers))
    assert [headings(file)[0].partition(".")[0].lstrip("0") for file in files] == [str(number) for number in numbers]
