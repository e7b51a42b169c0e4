"""The command line of the lab."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.enter import exec_argv
from slurm.lab.errors import LabError
from slurm.lab.place import Place, cache_root
from slurm.lab.preflight import FREE_GIB, check, check_root
from slurm.lab.progress import Progress
from slurm.lab.spec import NODES, Bind, Publish, Spec, node_named

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run one command; 0 is success, 1 a failure that was explained, 2 a wrong command line, 130 an interruption."""
    own, command = _split(argv)
    options = _parser().parse_args(own)
    options.command = command
    try:
        check_root()
        return int(options.run(options) or 0)
    except LabError as error:
        print(error.render(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("slurm.lab: interrupted", file=sys.stderr)
        return 130


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The lab's own arguments, and what follows `--`."""
    own = list(argv)
    if "--" not in own:
        return own, []
    at = own.index("--")
    return own[:at], own[at + 1 :]


def _place(options: argparse.Namespace) -> Place:
    return Place.find(options.name, options.state)


def _cache(options: argparse.Namespace) -> Path:
    return options.cache.resolve() if options.cache else cache_root()


def _up(options: argparse.Namespace) -> None:
    from slurm.lab import layers, lifecycle  # noqa: PLC0415 - `exec` is called thousands of times and needs none of it

    place, cache, progress = _place(options), _cache(options), Progress(quiet=options.quiet)
    check(place, cache, progress, free_gib=options.min_free_gib)
    chosen = [path.resolve() for path in options.layer]
    if options.pyslurm:
        chosen.insert(0, layers.pyslurm_layer(cache, progress))
    spec = Spec(
        name=options.name,
        users=tuple(options.users.split(",")),
        operators=tuple(options.operator),
        layers=tuple(str(path) for path in chosen),
        binds=tuple(Bind.parse(text) for text in options.bind),
    )
    lifecycle.up(place, spec, [Publish.parse(text) for text in options.publish], cache, progress)


def _down(options: argparse.Namespace) -> None:
    from slurm.lab import lifecycle  # noqa: PLC0415 - as in _up

    lifecycle.down(_place(options), keep=options.keep)


def _exec(options: argparse.Namespace) -> int:
    env = dict(item.split("=", 1) for item in options.env)
    place = _place(options)
    command = options.command or ["bash", "-l"]
    argv = exec_argv(
        node_named(options.node), command, user=options.user, lab=place, cwd=options.cwd, env=env,
        host_network=options.host_network,
    )  # fmt: skip
    if options.tty:
        from slurm.lab import terminal  # noqa: PLC0415 - as in _up

        return terminal.run(argv, place, options.node, options.user)
    sys.stdout.flush()
    os.execvp(argv[0], argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m slurm.lab", description="A Slurm cluster in a box.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        made.add_argument("--name", default="lab", help="which lab, if there are several (default: lab)")
        made.add_argument("--state", type=Path, help="its state directory (default: $LAB_STATE, or build/lab/NAME)")
        made.add_argument("--cache", type=Path, help="where roots and layers are kept (default: $LAB_CACHE, or ~/.cache/slurm-lab)")
        return made

    up = command("up", _up, "Bring the lab up.")
    up.add_argument("--users", default="alice,bob,carol", help="the people of the cluster (default: %(default)s)")
    up.add_argument("--operator", action="append", default=[], metavar="NAME", help="a system account that is a Slurm operator")
    up.add_argument("--layer", action="append", default=[], type=Path, metavar="PATH", help="a read-only tree over every node's root")
    up.add_argument("--pyslurm", action="store_true", help="with pyslurm in /opt/pyslurm, and its wheel in /opt/wheels")
    up.add_argument("--bind", action="append", default=[], metavar="SRC:DEST[:ro]", help="a directory of the machine in every node")
    up.add_argument("--publish", action="append", default=[], metavar="ADDR:PORT:NODE:PORT", help="a loopback port that leads into a node")
    up.add_argument("--min-free-gib", type=float, default=FREE_GIB, help="free disk space to insist on (default: %(default)s)")
    up.add_argument("--quiet", action="store_true", help="no progress lines")

    down = command("down", _down, "Take the lab away, and all its data.")
    down.add_argument("--keep", action="store_true", help="keep the state directory")

    enter = command("exec", _exec, "Run a command in a node: exec NODE -- COMMAND...")
    enter.add_argument("node", choices=NODES)
    enter.add_argument("--user", default="root")
    enter.add_argument("--cwd", help="directory in the node (default: the user's home)")
    enter.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    enter.add_argument("--host-network", action="store_true", help="with the machine's network instead of the lab's")
    enter.add_argument("--tty", action="store_true", help="with a terminal")
    return parser
