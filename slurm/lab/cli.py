"""The command line of the lab."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.enter import exec_argv
from slurm.lab.errors import LabError
from slurm.lab.paths import LabPaths, cache_root
from slurm.lab.preflight import check_root
from slurm.lab.releases import RELEASES, SID
from slurm.lab.spec import NODES, LabBind, LabSpec, PublishedPort

if TYPE_CHECKING:
    from collections.abc import Sequence

TERMINAL_LANG = "C.UTF-8"
"""Locale of commands with a terminal, unless `--env` has another one: programs then draw more than ASCII."""

_SLURMS = ", ".join(f"{suite} with Slurm {release.slurm}" for suite, release in RELEASES.items())

# `exec` is called thousands of times: what it does not need is imported by the commands that do.


def main(argv: Sequence[str]) -> int:
    """Run one command. Return 0 for success, 1 for a failure with a message, 2 for a wrong command line, 130 for an
    interruption.
    """
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
    """Return the lab's own arguments, and those after `--`."""
    own = list(argv)
    if "--" not in own:
        return own, []
    at = own.index("--")
    return own[:at], own[at + 1 :]


def _place(options: argparse.Namespace) -> LabPaths:
    return LabPaths.find(options.name, options.state)


def _cache(options: argparse.Namespace) -> Path:
    return Path(options.cache).resolve() if options.cache else cache_root()


def _up(options: argparse.Namespace) -> None:
    from slurm.lab import layers, lifecycle, preflight  # noqa: PLC0415 - see the top
    from slurm.lab.progress import ProgressLog  # noqa: PLC0415 - see the top

    place, cache, progress = _place(options), _cache(options), ProgressLog(quiet=options.quiet)
    chosen = [Path(path).resolve() for path in options.layer]
    binds = tuple(LabBind.parse(text) for text in options.bind)
    published = [PublishedPort.parse(text) for text in options.publish]
    if options.pyslurm and not RELEASES[options.suite].pyslurm:
        raise LabError(f"there is no pyslurm for Debian {options.suite}", hint="without --pyslurm: Slurm's commands do")
    preflight.check_host(place, cache, progress, free_gib=options.min_free_gib)
    if options.pyslurm:
        chosen.insert(0, layers.pyslurm_layer(cache, progress))
    spec = LabSpec(
        name=options.name,
        users=tuple(options.users.split(",")),
        operators=tuple(options.operator),
        layers=tuple(str(path) for path in chosen),
        binds=binds,
        suite=options.suite,
        simulated=options.simulated_nodes,
    )
    lifecycle.bring_up(place, spec, published, cache, progress)


def _down(options: argparse.Namespace) -> None:
    from slurm.lab import lifecycle  # noqa: PLC0415 - see the top

    place = _place(options)
    print(f"taking lab {place.name} down", file=sys.stderr, flush=True)  # with jobs on it, this takes seconds
    lifecycle.take_down(place, keep=options.keep)


def _status(options: argparse.Namespace) -> int:
    from slurm.lab.status import lab_status, render_status  # noqa: PLC0415 - see the top

    data = lab_status(_place(options))
    print(json.dumps(data, indent=2) if options.json else render_status(data))
    return 0 if data["healthy"] else 1


def _exec(options: argparse.Namespace) -> int:
    env = ({"LANG": TERMINAL_LANG} if options.tty else {}) | dict(item.split("=", 1) for item in options.env)
    place = _place(options)
    argv = exec_argv(
        options.node, options.command or ["bash", "-l"], user=options.user, lab=place, cwd=options.cwd, env=env,
        host_network=options.host_network,
    )  # fmt: skip
    if options.tty:
        from slurm.lab import terminal  # noqa: PLC0415 - see the top

        return terminal.run_on_terminal(argv, place, options.node, options.user)
    os.execvp(argv[0], argv)  # noqa: S606 - it becomes the command: nothing stands between it and its caller
    raise AssertionError("execvp returned")  # pragma: no cover


def _logs(options: argparse.Namespace) -> int:
    place = _place(options)
    files = sorted(place.logs.glob(f"{options.node or '*'}.{options.daemon or '*'}.log"))
    if not files:
        raise LabError(f"no such logs in {place.logs}", hint="the lab may be down: its logs go with it")
    argv = ["tail", f"--lines={options.lines}", *(["--follow"] if options.follow else []), *map(str, files)]
    os.execvp(argv[0], argv)  # noqa: S606 - it becomes tail
    raise AssertionError("execvp returned")  # pragma: no cover


def _restart(options: argparse.Namespace) -> None:
    from slurm.lab import daemons, lifecycle  # noqa: PLC0415 - see the top

    place = _place(options)
    with lifecycle.lab_lock(place):
        daemon = daemons.daemon_named(options.daemon, options.node)
        daemons.kill_daemon(place, options.node, daemon)
        lifecycle.start_daemons(place, daemon.name, nodes=[options.node])


def _node(options: argparse.Namespace) -> None:
    from slurm.lab import lifecycle, node  # noqa: PLC0415 - see the top

    place = _place(options)
    with lifecycle.lab_lock(place):
        if options.power == "down":
            node.power_off(place, options.node)
        else:
            lifecycle.power_on(place, options.node)


def _publish(options: argparse.Namespace) -> None:
    from slurm.lab import lifecycle, publish  # noqa: PLC0415 - see the top

    place = _place(options)
    with lifecycle.lab_lock(place):
        lifecycle.load_spec(place)
        publish.publish_port(place, PublishedPort.parse(options.port))


def _unpublish(options: argparse.Namespace) -> None:
    from slurm.lab import lifecycle, publish  # noqa: PLC0415 - see the top

    place = _place(options)
    with lifecycle.lab_lock(place):
        publish.unpublish_port(place, options.port)


def _layer(options: argparse.Namespace) -> None:
    from slurm.lab import layers, preflight  # noqa: PLC0415 - see the top
    from slurm.lab.progress import ProgressLog  # noqa: PLC0415 - see the top

    cache, progress = _cache(options), ProgressLog(quiet=options.quiet)
    preflight.check_host(LabPaths("", cache), cache, progress)
    if options.pyslurm:
        print(layers.pyslurm_layer(cache, progress))
        return
    if options.script is None:
        raise LabError("a layer needs a --script, or --pyslurm")
    parents = [path.resolve() for path in options.parent]
    print(layers.build_layer(cache, options.name, options.script, options.input, parents=parents, progress=progress))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m slurm.lab", description="A Slurm cluster in a box.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: object, text: str, *, of_lab: bool = True, of_node: bool = False
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        if of_lab:
            made.add_argument("--name", default="lab", help="which lab, if there are several (default: lab)")
            made.add_argument("--state", type=Path, metavar="DIR", help="default: $LAB_STATE, or build/lab/NAME")
        made.add_argument("--cache", type=Path, metavar="DIR", help="default: $LAB_CACHE, or ~/.cache/slurm-lab")
        if of_node:
            made.add_argument("node", choices=NODES)
        return made

    _add_up_options(command("up", _up, "Bring the lab up."))

    down = command("down", _down, "Take the lab away, and all its data.")
    down.add_argument("--keep", action="store_true", help="keep its data: the next `up` uses it again")

    command("status", _status, "Show the lab; the exit code is 0 if it is healthy.").add_argument(
        "--json", action="store_true"
    )

    enter = command(
        "exec",
        _exec,
        "Run a command in a node: exec NODE [options] -- COMMAND... (default: a login shell)",
        of_node=True,
    )
    enter.add_argument("--user", default="root")
    enter.add_argument("--cwd", metavar="DIR", help="directory in the node (default: the user's home)")
    _many(enter, "--env", "NAME=VALUE", "a variable for the command")
    enter.add_argument("--host-network", action="store_true", help="with the machine's network instead of the lab's")
    enter.add_argument("--tty", action="store_true", help="with a terminal")

    logs = command("logs", _logs, "Show the daemons' logs.")
    logs.add_argument("node", nargs="?", choices=NODES)
    logs.add_argument("daemon", nargs="?")
    logs.add_argument("-n", "--lines", type=int, default=50)
    logs.add_argument("-f", "--follow", action="store_true")

    restart = command("restart", _restart, "Kill a daemon, if it runs, and start it again.", of_node=True)
    restart.add_argument("daemon")

    power = command("node", _node, "Pull a node's plug, or boot it again.", of_node=True)
    power.add_argument("power", choices=("down", "up"))

    command("publish", _publish, "Make a loopback port of the machine lead into a node.").add_argument(
        "port", metavar="127.0.0.1:PORT:NODE:PORT"
    )
    command("unpublish", _unpublish, "End that.").add_argument("port", type=int)

    layer = command("layer", _layer, "Make a read-only tree for `up --layer`, and print its path.", of_lab=False)
    layer.add_argument("--name", default="layer", help="what its directory is called (default: %(default)s)")
    layer.add_argument("--script", type=Path, help="run with bash, as root, in the root: what it changes is the layer")
    _many(layer, "--input", "PATH", "a file or directory that the script finds in $INPUTS", Path)
    _many(layer, "--parent", "PATH", "a layer below it", Path)
    layer.add_argument("--pyslurm", action="store_true", help="the lab's own layer with pyslurm")
    layer.add_argument("--quiet", action="store_true", help="no progress lines")
    return parser


def _add_up_options(up: argparse.ArgumentParser) -> None:
    up.add_argument("--users", default="alice,bob,carol", help="the people of the cluster (default: %(default)s)")
    up.add_argument("--suite", choices=RELEASES, default=SID, help=f"the nodes' Debian: {_SLURMS}")
    text = "nodes that exist in slurmctld alone, in the partition `simulated` (default: none)"
    up.add_argument("--simulated-nodes", type=int, default=0, metavar="COUNT", help=text)
    _many(up, "--operator", "NAME", "a system account that is a Slurm operator")
    _many(up, "--layer", "PATH", "a read-only tree over every node's root", Path)
    up.add_argument("--pyslurm", action="store_true", help="with pyslurm in /opt/pyslurm, and its wheel in /opt/wheels")
    _many(up, "--bind", "SRC:DEST[:ro]", "a directory of the machine that every node sees")
    _many(up, "--publish", "127.0.0.1:PORT:NODE:PORT", "a loopback port of the machine that leads into a node")
    up.add_argument("--min-free-gib", type=float, default=6, help="free disk space to insist on (default: %(default)s)")
    up.add_argument("--quiet", action="store_true", help="no progress lines")


def _many(to: argparse.ArgumentParser, option: str, metavar: str, text: str, kind: type = str) -> None:
    to.add_argument(option, action="append", default=[], metavar=metavar, type=kind, help=f"{text} (repeatable)")
