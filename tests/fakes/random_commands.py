"""Random command lines of every command, and a controller whose answers hold text of all kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.app import berth
from broker.errors import ConflictError
from broker.schema import volumes
from broker.schema.site import RebuildReport
from tests.fakes.cluster import cluster_view, node_view, partition_view
from tests.fakes.controller import operation, ready, view

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from tests.fakes.controller import ScriptedController

SERVICES = {"controller", "gateway", "registry", "connect"}
"""Commands that would run until a signal, or write to the file descriptor of stdout."""

ENDLESS = {"follow", "watch"}
"""Options with which a command runs until Ctrl-C."""

WORDS = [
    *("", "-", "--", "-1", "0", "4", "nan", "inf", "9" * 30, "dév", "\udc80x", "a" * 300, "../x", "Dev", "dev"),
    *("1960-01-01", "9999-12-31T23:59", "18:00", "99:99", "\x1b[31m", "💥", "367d", "1h30m", "@", "base@1", "~/x", "/"),
    *("home", "SHA256:ca", "yes", "never", "default", "nosuch", "--json", "--help", "--no-wait", "-o", "--gres=gpu:1"),
    *(
        "--time=4x",
        "--mem=1.5G",
        "../../etc/passwd",
        "/dev/null",
        "\t",
        "a b",
        "$(id)",
        "-0",
        "1e309",
        "0x10",
        "١٢",
        "\u202e",
    ),
    *(
        "--config",
        "--mem",
        "--gres=",
        "--time=-1",
        "base@",
        "@1",
        "dev.berth",
        "1-",
        "2-25",
        "99999d",
        "0.0s",
        "inf",
        "+5",
    ),
]
TEXT = "„Ressourcen“ … fehlen ✓ \x1b[2J"


def fill(running: ScriptedController) -> None:
    """Give the controller two sessions, a snapshot, a log and answers to all calls that only look."""
    done = operation("snapshot", "done", snapshot=1, message=TEXT, undo="berth rollback dev 1")
    for named in (
        ready("dev", operation=done, reason=TEXT, options=["--gres=gpu:1"], expected_start_at=2e9, ends_at=2e9),
        view("old", operation=done, reason=TEXT, outcome="OUT_OF_MEMORY"),
    ):
        running.sessions[named.name] = named
    snapshot = volumes.SnapshotView(number=1, at=1.0, consistency="stopped", profile="base", version="1")
    running.snapshots["dev"] = [snapshot.model_copy(update={"reason": TEXT})]
    running.logs["dev"].append(f"{TEXT}\n" * 3)
    change = volumes.FileChange(change="A", volume="home", path=f"/{TEXT}")
    nodes = [node_view(state=TEXT, reason=TEXT)]
    running.answers = {
        "GET /v1/cluster": cluster_view(nodes=nodes, partitions=[partition_view(state=TEXT)]),
        "POST /v1/gc": volumes.GcReport(layers=0, bytes=0, dry_run=False),
        "POST /v1/rebuild": RebuildReport(restored=[]),
    }
    for name in running.sessions:
        running.answers |= {
            f"GET /v1/sessions/{name}/diff": volumes.DiffReport(base="profile base@1", files=[change]),
            f"GET /v1/sessions/{name}/size": volumes.SizeReport(lines=[], bytes=1, free=1),
            f"POST /v1/sessions/{name}/verify": volumes.VerifyReport(layers=1, recorded=0),
        }
        running.failures[f"POST /v1/sessions/{name}/clone"] = ConflictError(TEXT, hint=TEXT)


def find_command(name: str) -> click.Command:
    """Return a command of `berth`."""
    found = berth.get_command(click.Context(berth), name)
    assert found is not None
    return found


def paths(command: click.Command, name: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its words, commands of groups too."""
    yield (name,), command
    if isinstance(command, click.Group):
        for below in command.commands:
            for words, inner in paths(command.commands[below], below):
                yield (name, *words), inner


def command_lines(command: click.Command, words: tuple[str, ...], chance: random.Random) -> list[str]:
    """Return a command line: half of them with right values only, the others with right and wrong ones."""
    right = chance.random() < 0.5
    line: list[str] = []
    for parameter in [each for each in command.params if each.name not in ENDLESS]:
        is_argument = isinstance(parameter, click.Argument)
        count = (1 if right else chance.choice([1, 1, 1, 0, 2])) if is_argument else int(chance.random() < 0.3)
        for _ in range(count):
            line += [] if is_argument else [chance.choice(parameter.opts)]
            if not getattr(parameter, "is_flag", False):
                line.append(_right_value(parameter, chance) if right or chance.random() < 0.5 else chance.choice(WORDS))
    line += ["--timeout", "0.01s"] * any("--timeout" in parameter.opts for parameter in command.params)
    line += [] if right else chance.sample(WORDS, chance.choice([0, 0, 1]))
    return [*words, *line]


_RIGHT = {
    "name": ("dev", "old"),
    "snapshot": ("1",),
    "profile": ("base@1", "base"),
    "environment": ("dev", "base"),
    "label": ("one",),
    "kept": ("home", "/opt"),
    "time": ("4h", "1:30:00"),
    "policy": ("4h", "never", "default"),
    "integer range": ("1", "3"),
    "float range": ("1", "3"),
    "path": ("config.yaml",),
    "file": ("config.yaml",),
}


def _right_value(parameter: click.Parameter, chance: random.Random) -> str:
    if isinstance(parameter.type, click.Choice):
        return str(chance.choice(parameter.type.choices))
    return chance.choice(_RIGHT.get(parameter.type.name, ("dev", "1", "42", "config.yaml", "SHA256:x", "base")))
