"""The commands of docs/tutorial/first-session.md, as they stand there, and the pictures that follow them.

What a reader types is what the test and `make picture` run.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.site.deploy import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.site.deploy import Site
    from tests.site.laptop import Laptop

PAGE = CHECKOUT / "docs/tutorial/first-session.md"
SESSION = "dev"
PROFILE = "triton-xpu"
OTHER_PROFILE = "base"
START = f"berth start {SESSION} --profile {PROFILE} --gres=gpu:intel:1"
"""The command with which `make demo` starts the tutorial's session."""
PROMPTS = {"login": "login$ ", "laptop": "laptop$ ", "session": f"{SESSION}$ "}
CONFIG = "-F build/ssh_config"
SECONDS = 300
INTERACTIVE = {f"ssh {CONFIG} {SESSION}.berth", "exit"}
"""Commands that open or leave a shell: they are not run."""

_PART = re.compile(r"^```console\n(.*?)^```$|!\[([^\]]*)\]\(([^)]+)\)", re.MULTILINE | re.DOTALL)

_CHANGE = re.compile(r"\bcd (\S+)")


@dataclass(frozen=True, slots=True)
class TutorialCommand:
    """A command, the place where its prompt says that it is run, and the directory in which the shell is there."""

    place: str
    line: str
    directory: str = "."

    @property
    def shown(self) -> str:
        return PROMPTS[self.place] + self.line


@dataclass(frozen=True, slots=True)
class TutorialPicture:
    """A picture of the page: its title, its file, and the commands since the one before."""

    title: str
    file: Path
    commands: tuple[TutorialCommand, ...]


def read_pictures() -> list[TutorialPicture]:
    """Return the pictures of the page, in order, with the commands that they show."""
    pictures, commands = list[TutorialPicture](), list[TutorialCommand]()
    for found in _PART.finditer(PAGE.read_text(encoding="utf-8")):
        if found[1] is not None:
            commands += _read_commands(found[1])
        else:
            file = (PAGE.parent / found[3]).resolve()
            pictures.append(TutorialPicture(" ".join(found[2].split()), file, tuple(commands)))
            commands = []
    assert not commands, f"no picture shows {commands}"
    return pictures


def _read_commands(block: str) -> Iterator[TutorialCommand]:
    """Yield the commands of a block except root's and those that open or leave a shell."""
    directory = "."
    for line in block.splitlines():
        if line.startswith("# "):
            continue
        place = next((each for each, prompt in PROMPTS.items() if line.startswith(prompt)), None)
        assert place is not None, f"{PAGE.name}: {line!r} has no prompt of {list(PROMPTS.values())}"
        command = line.removeprefix(PROMPTS[place])
        if command not in INTERACTIVE:
            yield TutorialCommand(place, command, directory if place == "login" else ".")
        if place == "login" and (change := _CHANGE.search(command)):
            directory = change[1]


def run_command(site: Site, laptop: Laptop, command: TutorialCommand) -> subprocess.CompletedProcess[str]:
    """Run a command where its prompt says; its output has standard error too."""
    if command.place == "login":
        argv = site.lab.argv(["sh", "-c", f"cd {command.directory} && {command.line}"], user="alice")
    elif command.place == "session":
        argv = laptop.argv(SESSION, [command.line])
    else:
        argv = ["sh", "-c", command.line.replace(CONFIG, f"-F {laptop.config}")]
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS,
        check=False, cwd=CHECKOUT,
    )  # fmt: skip


def begin_anew(site: Site) -> None:
    """Leave alice with the session of `make demo` alone."""
    remove_sessions(site)
    site.run(START, user="alice", seconds=SECONDS)


def remove_sessions(site: Site) -> None:
    """Remove the sessions and files of the tutorial, as far as there are any."""
    names = (SESSION, "trial")
    script = "".join(f"berth stop {name}; berth delete {name} --purge --yes; " for name in names)
    site.lab.run(["sh", "-c", f"{script}rm -rf results"], user="alice", seconds=SECONDS)
