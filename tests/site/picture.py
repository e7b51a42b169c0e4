"""`make picture`: docs/images/session.svg, the pictures of the tutorial and those of `berth tui`, from a real cluster.

The commands of the tutorial come from its page. All commands run on the lab of `make demo`. The lab is brought up if it
does not run, and stays up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from slurm.lab.progress import ProgressLog
from tests.site import deploy, tui_pictures, tutorial
from tests.site.laptop import Laptop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAME = os.environ.get("LAB_NAME", "lab")
PORT = int(os.environ.get("PORT", "2222"))
PROFILE = "triton-xpu"
PICTURE = deploy.CHECKOUT / "docs/images/session.svg"
LOGIN, LAPTOP = "alice@login$ ", "alice@laptop$ "
STEPS = (
    (LOGIN, f"berth start dev --profile {PROFILE} --gres=gpu:intel:1"),
    (LAPTOP, "ssh dev.berth 'hostname; clinfo -l; echo precious > results.txt'"),
    (LOGIN, "berth snapshot dev before-upgrade"),
    (LAPTOP, "ssh dev.berth 'rm results.txt; cat results.txt'"),
    (LOGIN, "berth rollback dev before-upgrade --yes"),
    (LAPTOP, "ssh dev.berth 'hostname; cat results.txt'"),
    (LOGIN, "berth stop dev"),
)
SECONDS = 300
TITLE = "A session is started, used, and rolled back: output of a real run"
COLUMNS = 96
"""The width of the terminal: longer lines are folded, as a terminal does."""

_LINE, _COLUMN, _MARGIN, _SIZE = 18, 7.8, 16, 13
_COLOURS = {"background": "#1b1f24", "text": "#d5dae0", "prompt": "#7ee787"}


def main() -> int:
    progress = ProgressLog()
    site = deploy.up(NAME, publish_port=PORT, progress=progress)
    for profile in (PROFILE, tutorial.OTHER_PROFILE):
        deploy.build_profile(site, profile, progress)
    laptop = Laptop.of(site, "alice", Path("build"), PORT)
    site.lab.run(["sh", "-c", "berth stop dev; berth delete dev --purge --yes"], user="alice", seconds=SECONDS)
    write_picture(PICTURE, TITLE, [line for step in STEPS for line in run(site, laptop, *step)])
    tutorial.begin_anew(site)
    for picture in tutorial.read_pictures():
        lines = [line for command in picture.commands for line in run_tutorial_command(site, laptop, command)]
        write_picture(picture.file, picture.title, lines)
    tui_pictures.make_tui_pictures(site)
    return 0


def write_picture(file: Path, title: str, lines: Sequence[str]) -> None:
    """Write a picture, and print its lines."""
    file.write_text(svg(lines, title), encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")


def run_tutorial_command(site: deploy.Site, laptop: Laptop, command: tutorial.TutorialCommand) -> Iterator[str]:
    """Run a command of the tutorial; yield its line, then the lines of its output. CalledProcessError if it fails."""
    yield from fold(command.shown)
    done = tutorial.run_command(site, laptop, command)
    sys.stderr.write("" if done.returncode == 0 else done.stdout)
    done.check_returncode()
    for line in done.stdout.splitlines():
        yield from fold(line)


def fold(line: str) -> Iterator[str]:
    """Yield the rows of a line on a terminal of COLUMNS columns."""
    yield from (line[start : start + COLUMNS] for start in range(0, max(1, len(line)), COLUMNS))


def run(site: deploy.Site, laptop: Laptop, prompt: str, command: str) -> Iterator[str]:
    """Run one command where its prompt says; yield its line, then the lines of its output."""
    yield prompt + command
    if prompt == LAPTOP:  # `berth ssh-config` has written the file: a user's own ssh reads it without the option
        argv = ["sh", "-c", command.replace("ssh ", f"ssh -F {laptop.config} ", 1)]
    else:
        argv = site.lab.argv(["sh", "-c", command], user="alice")
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    for line in done.stdout.splitlines():
        yield from fold(line)


def svg(lines: Sequence[str], title: str) -> str:
    """Return a picture of the lines, with the prompts in a colour of their own."""
    width = round(max(map(len, lines)) * _COLUMN) + 2 * _MARGIN
    height = len(lines) * _LINE + 2 * _MARGIN
    rows = []
    for number, line in enumerate(lines):
        prompt = next((each for each in (LOGIN, LAPTOP, *tutorial.PROMPTS.values()) if line.startswith(each)), "")
        marked = f'<tspan fill="{_COLOURS["prompt"]}">{escape(prompt)}</tspan>{escape(line[len(prompt) :])}'
        y = _MARGIN + _SIZE + number * _LINE
        rows.append(f'<text x="{_MARGIN}" y="{y}">{marked if prompt else escape(line)}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="100%" height="100%" rx="8" fill="{_COLOURS["background"]}"/>',
            f'<g xml:space="preserve" font-family="monospace" font-size="{_SIZE}" fill="{_COLOURS["text"]}">',
            *rows,
            "</g>",
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
