"""Every command that Berth prints or documents, run as it stands on the lab.

The commands are found as in tests/docs/test_printed_commands.py. The short form runs one command of each form: the
same command with the same options. The long form, marked `soak`, runs all.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.lab.services import restart
from tests.printed.elsewhere import entry_for
from tests.printed.parse import make_files
from tests.printed.runnable import runnable_commands
from tests.printed.situations import GROUPS, LOOK, WORK, run, situation_of
from tests.printed.world import World
from tests.short_form import mostly_soak

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.lab.conftest import User
    from tests.printed.runnable import Runnable
    from tests.site.deploy import Site

CONFIG = "/etc/berth/config.yaml"
STATE = "/var/lib/berth"
AT_ONCE = 4
"""Commands that run at the same time in the group of those that change nothing."""


@pytest.fixture(scope="module")
def by_keys_and_certificates(site: Site, people: dict[str, User]) -> Iterator[None]:
    """The site accepts certificates too, and has its authorities and registry back in the end."""
    assert people
    before = site.lab.sh(f"cat {CONFIG}")
    changed = yaml.safe_load(before)
    changed.setdefault("ssh", {})["login_with"] = "both"
    site.kill("broker")
    site.lab.sh(f"rm -rf {STATE}.kept; cp -a {STATE} {STATE}.kept")
    _start(site, yaml.safe_dump(changed))
    yield
    site.kill("broker")
    site.lab.sh(f"find {STATE} -mindepth 1 -delete; cp -a {STATE}.kept/. {STATE}; rm -r {STATE}.kept")
    _start(site, before)


def _start(site: Site, config: str) -> None:
    site.run(f"sh -c 'cat >{CONFIG}'", user="root", stdin=config.encode())
    restart(site)
    site.new_gateway_workers()


@pytest.fixture(scope="module")
def world(
    by_keys_and_certificates: None, people: dict[str, User], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    assert by_keys_and_certificates is None
    made = World(people["alice"], tmp_path_factory.mktemp("laptop"))
    made.set_up()
    yield made
    made.clean_up()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Runnable]:
    """All printed commands that run on the lab; they are parsed in a home with the files that they name."""
    make_files(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BERTH_CONFIG", "")
    with monkeypatch.context() as there:
        there.chdir(tmp_path)
        return [each for each in runnable_commands() if entry_for(each) is None]


def one_of_each_form(commands: Sequence[Runnable]) -> list[Runnable]:
    found: dict[object, Runnable] = {}
    for each in commands:
        found.setdefault(each.form, each)
    return list(found.values())


def run_all(world: World, commands: Sequence[Runnable], group: str) -> None:
    """Run the group's commands, each in its situation; fail with all that do not do what they say."""
    pairs = [(each, situation) for each in commands if (situation := situation_of(each)) and situation.group == group]
    assert pairs
    if group == LOOK:
        for each, situation in pairs:
            situation.before(world, each)
    with ThreadPoolExecutor(AT_ONCE if group == LOOK else 1) as pool:
        said = list(pool.map(lambda pair: run(world, *pair), pairs))
    if failures := list(filter(None, said)):
        pytest.fail("\n".join(failures), pytrace=False)


@pytest.mark.parametrize("group", mostly_soak(WORK, *(each for each in GROUPS if each != WORK)))
def test_one_command_of_each_form_does_what_it_says(world: World, commands: list[Runnable], group: str) -> None:
    run_all(world, one_of_each_form(commands), group)


@pytest.mark.soak
@pytest.mark.parametrize("group", GROUPS)
def test_every_command_does_what_it_says(world: World, commands: list[Runnable], group: str) -> None:
    run_all(world, commands, group)
