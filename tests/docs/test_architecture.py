"""The tables of the architecture, and of the files in `run/`, name what the code has, and nothing else."""

from __future__ import annotations

import re

import pytest

from broker.controller.launcher_client.answers import KINDS
from broker.job.bundle import ENVIRONMENT_SCRIPT, SESSION_SCRIPT
from broker.launcher.argument_bases import OperationArguments
from broker.launcher.arguments import ARGUMENTS
from broker.launcher.places import READY_VERB
from broker.launcher.session_verbs import FILES
from broker.launcher.verbs import VERBS
from tests.docs.generate import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
GONE = "gone"
"""The error of a request that the launcher can no longer answer; the controller's client makes it."""
RUN_FILE = re.compile(r"(?<![\w/])(?:\$DIRECTORY/|\{\w+(?:\.\w+)*\}/)?run/([a-z]\w*(?:[.-]\w+)*)")
"""A path in a session's directory, as scripts and programs write it; paths below NODE_DIR are on the node."""
RUN_CONSTANT = re.compile(r"\"run\" / \"([\w.]+)\"|run_directory / \"([\w.]+)\"")
HOST_KEY = "ssh_host_ed25519_key"
FORMER = {"copying.py"}
"""Files of earlier versions, which the launcher removes."""
TEMPORARY = re.compile(r"\.new$")


def part(begin: str, end: str = "\n\n", page: str = PAGE) -> str:
    """Return what is between these two texts."""
    return page.split(begin, 1)[1].split(end, 1)[0]


def first_column(head: str, page: str = PAGE) -> list[str]:
    """Return the names in code style of the first column, of the table with this head."""
    rows = part(head, "\n\n", page + "\n\n").splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def files_in_run() -> set[str]:
    """Find the names below `run/` that the program reads or writes."""
    names = {SESSION_SCRIPT, ENVIRONMENT_SCRIPT, *(path.removeprefix("run/") for path in FILES.values() if "/" in path)}
    for path in (ROOT / "broker").rglob("*"):
        if path.suffix in {".py", ".sh"}:
            text = path.read_text(encoding="utf-8")
            names.update(RUN_FILE.findall(text))
            names.update(name for pair in RUN_CONSTANT.findall(text) for name in pair if name)
    return {name for name in names - FORMER if not TEMPORARY.search(name)} | {f"{HOST_KEY}.pub"}


def test_every_verb_of_the_launcher_has_its_row() -> None:
    assert set(VERBS) == set(ARGUMENTS)
    assert sorted(first_column("| verb | what it does |")) == sorted([*ARGUMENTS, READY_VERB])


def test_every_error_of_the_launcher_is_explained() -> None:
    text = part("The launcher forks for each request", "| verb |")
    errors = re.findall(r"The errors (.+?) mean", text, re.DOTALL)
    assert len(errors) == 2
    assert sorted(re.findall(r"`([\w-]+)`", " ".join(errors))) == sorted({*KINDS, GONE})


def test_every_verb_without_the_id_of_an_operation_that_is_named_has_none() -> None:
    named = re.findall(r"`(\w+)`", part("Verbs that change volumes take the id", "need no id").split(".")[-1])
    assert {"hand_over", "gc"} <= set(named)
    assert not [verb for verb in named if issubclass(ARGUMENTS[verb], OperationArguments)]


def test_every_key_of_job_env_has_its_row() -> None:
    script = (ROOT / "broker/job/node/job_env.sh").read_text(encoding="utf-8")
    keys = re.findall(r"BERTH_[A-Z_]+", part("case ${BASH_REMATCH[1]} in", "printf -v", script))
    assert sorted(first_column("| key | meaning |")) == sorted(keys)


def test_every_file_in_run_is_listed() -> None:
    """In the layout, and in the reference of the session's job or of the batch job's environment."""
    lines = part("    run/  ", "  trash/").splitlines()[1:]
    layout = {name for line in lines for name in re.findall(r"^ {6}((?:[\w.-]+ {1,2}(?=\S))*[\w.-]+)", line)[0].split()}
    job = (ROOT / "docs/reference/session-job.md").read_text(encoding="utf-8")
    assert layout == {re.sub(r"^(?=[.-])", HOST_KEY, name) for name in first_column("| file | written by | use |", job)}
    batch = (ROOT / "docs/reference/batch-job.md").read_text(encoding="utf-8")
    environment = {name.split("/")[1] for name in first_column("| file | content |", batch) if name.startswith("run/")}
    assert layout | environment == files_in_run()


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (ROOT / "broker").glob("*/__init__.py")))
def test_every_folder_has_its_row(folder: str) -> None:
    assert f"broker/{folder}" in first_column("| folder | process or part | account |")
