"""The pictures of `berth tui` in docs/images, made from its real screens over sessions on the lab.

`make picture` makes them with the other pictures; `.venv/bin/python -m tests.site.tui_pictures` makes them alone.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm.lab.progress import ProgressLog
from tests.pseudo_terminal import PseudoTerminal
from tests.site import deploy
from tests.site.screen_picture import screen_svg

if TYPE_CHECKING:
    from pathlib import Path

NAME = os.environ.get("LAB_NAME", "lab")
USER = "alice"
PROFILE, OTHER_PROFILE = "triton-xpu", "base"
IMAGES = deploy.CHECKOUT / "docs/images"
SESSIONS = ("dev", "docs", "eval", "train")
PREPARATION = (
    f"berth start dev --profile {PROFILE} --gres=gpu:intel:1 --time=8:00:00",
    "berth exec dev -- sh -c 'echo data >data.txt'",
    "berth stop dev",
    "berth snapshot dev clean",
    "berth start dev",
    "berth exec dev -- sh -c 'head -c 3000000 /dev/urandom >model.bin'",
    "berth stop dev",
    "berth snapshot dev first-model",
    "berth start dev",
    "berth exec dev -- sh -c 'head -c 9000000 /dev/urandom >model.bin'",
    "berth stop dev",
    "berth snapshot dev larger-model",
    "berth rollback dev first-model --yes",
    "berth start dev",
    "berth exec dev -- sh -c 'echo tuned >notes.txt'",
    "berth stop dev",
    "berth snapshot dev tuned",
    "berth start dev",
    f"berth start docs --profile {OTHER_PROFILE} --mem=500M",
    "berth stop docs",
    f"berth start train --profile {PROFILE} --gres=gpu:intel:2 --time=2:00:00",
    "berth set train --continue always",
    f"berth start eval --profile {PROFILE} --no-wait --gres=shard:1 --begin=now+2hours",
)
"""Commands that make the sessions of the pictures. Snapshots of a stopped session share layers, which makes a tree."""
STEP_S = 300.0
COLUMNS, LINES = 120, 26
QUIET_S = 1.5
"""Seconds without output after which a screen counts as drawn."""
ENVIRONMENT = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_CTYPE": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class TuiPicture:
    """A screen: the keys that lead to it from the list with `dev` chosen, each with a text that is shown then."""

    name: str
    title: str
    keys: tuple[tuple[str, str], ...] = ()
    shown: tuple[str, ...] = ()
    """Texts that the picture has."""

    @property
    def file(self) -> Path:
        return IMAGES / f"{self.name}.svg"


PICTURES = (
    TuiPicture(
        "tui-list",
        "berth tui: the list of sessions, and the details of the chosen one",
        shown=("4 sessions", *SESSIONS, f"{PROFILE}@", "continues in a new job"),
    ),
    TuiPicture(
        "tui-start",
        "berth tui: the form for a new session, with what is free and the equivalent command",
        (
            ("n", "free now"),
            ("llm\t", "llm"),
            (f"{PROFILE}\t", PROFILE),
            ("gpu:intel:1\t", "$ berth start llm"),
            ("8\t", "cpus-per-task=8"),
        ),
        ("New session", "free now", "$ berth start llm"),
    ),
    TuiPicture(
        "tui-snapshots",
        "berth tui: the snapshots of a session as a tree",
        (("t", "present state"),),
        ("clean", "first-model", "larger-model", "tuned"),
    ),
)


def main() -> int:
    progress = ProgressLog()
    site = deploy.up(NAME, progress=progress)
    for profile in (OTHER_PROFILE, PROFILE):
        deploy.build_profile(site, profile, progress)
    make_tui_pictures(site)
    return 0


def make_tui_pictures(site: deploy.Site) -> None:
    """Write all pictures. Alice's sessions of these names are deleted before and after."""
    remove_sessions(site)
    try:
        for command in PREPARATION:
            site.run(command, user=USER, seconds=STEP_S)
        for picture in PICTURES:
            picture.file.write_text(take_picture(site, picture), encoding="utf-8")
    finally:
        remove_sessions(site)


def remove_sessions(site: deploy.Site) -> None:
    names = shlex.join(SESSIONS)
    script = f"for name in {names}; do berth stop $name; berth delete $name --purge --yes; done"
    site.lab.run(["sh", "-c", script], user=USER, seconds=STEP_S)


def take_picture(site: deploy.Site, picture: TuiPicture) -> str:
    """Return the SVG of one screen of a fresh interface."""
    command = site.lab.argv(["berth", "tui"], user=USER, env=ENVIRONMENT)
    with PseudoTerminal(command, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, columns=COLUMNS, lines=LINES) as terminal:
        terminal.wait_for(lambda text: re.search(r"> dev +ready", text) and "connecting" not in text)
        for keys, shown in picture.keys:
            terminal.type(keys)
            terminal.wait_for_text(shown)
        terminal.wait_for(lambda _: not terminal.read(QUIET_S))
        return screen_svg(terminal.screen, picture.title)


if __name__ == "__main__":
    raise SystemExit(main())
