"""The situation on the lab in which each printed command is run, and the sign that it did what it says.

A new command of a known kind needs nothing here. A command of a new kind needs a row.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.printed.runnable import HELP, OPENSSH
from tests.printed.world import OTHER_PROFILE, PROFILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.printed.runnable import Runnable
    from tests.printed.world import World

    Step = Callable[[World, Runnable], None]

LOOK, JOBS, FILES, WORK, SITE = "look", "jobs", "files", "work", "site"
"""Groups: commands that run at the same time; those that start and end jobs, change files, concern batch jobs, profiles
and the account, and are root's, which run one after the other.
"""
GROUPS = (LOOK, JOBS, FILES, WORK, SITE)
FORMER = ("former", "next")


def _nothing(world: World, command: Runnable) -> None:
    del world, command


@dataclass(frozen=True)
class Situation:
    """Preparation, expected exit codes, and check of one kind of command."""

    group: str = LOOK
    before: Step = _nothing
    after: Step = _nothing
    codes: tuple[int, ...] = (0,)
    """Other codes than 0 have their reason beside them."""
    terminal: bool = False
    """Whether it runs on a terminal, where it asks."""
    stdin: bytes = b""
    node: str = "login"
    user: str = "alice"
    directory: str = ""
    laptop: bool = False


def _name(command: Runnable, key: str = "name") -> str:
    return str(command.values.get(key) or "dev")


def _names(command: Runnable) -> list[str]:
    words = [*command.values.get("names", ()), *command.values.get("words", ())]
    return [word for word in words if re.fullmatch(r"[a-z][a-z0-9-]*", word)] or ["dev"]


def _is_ready(world: World, command: Runnable) -> None:
    assert world.state(_name(command)) == "ready"


def _stopped(world: World, command: Runnable) -> None:
    world.stopped(_name(command))


def _ready(world: World, command: Runnable) -> None:
    world.ready(_name(command))


def _only_dev(world: World, command: Runnable) -> None:
    del command
    world.only("dev")


def _ready_names(world: World, command: Runnable) -> None:
    world.ready(*_names(command))


def _before_start(world: World, command: Runnable) -> None:
    name = _names(command)[0]
    if command.values["profile"]:
        world.absent(name)
    else:
        world.stopped(name)
    if "--profile mine" in command.text:
        world.run("berth profile build mine.yaml")


def _after_start(world: World, command: Runnable) -> None:
    assert world.state(_names(command)[0]) == "ready"


def _after_stop(world: World, command: Runnable) -> None:
    if not command.values["at"] and not command.values["keep_until"]:
        assert {world.state(name) for name in _names(command)} <= {"stopped", ""}


def _before_delete(world: World, command: Runnable) -> None:
    world.stopped(*_names(command))


def _after_delete(world: World, command: Runnable) -> None:
    assert [world.state(name) for name in _names(command)] == [""] * len(_names(command))


def _before_restore(world: World, command: Runnable) -> None:
    name = _name(command)
    world.absent(*filter(None, [command.values["new"]]))
    world.stopped(name)
    world.absent(name)


def _after_restore(world: World, command: Runnable) -> None:
    assert world.state(str(command.values["new"] or _name(command))) == "stopped"


def _before_rename(world: World, command: Runnable) -> None:
    world.stopped(_name(command))
    world.absent(str(command.values["new"]))


def _after_new(world: World, command: Runnable) -> None:
    assert world.state(str(command.values["new"])) == ("ready" if command.values.get("start") else "stopped")


def _before_clone(world: World, command: Runnable) -> None:
    world.absent(str(command.values["new"]))
    world.stopped(_name(command))
    if command.values["at"]:
        world.snapshot(_name(command), str(command.values["at"]))


def _before_rollback(world: World, command: Runnable) -> None:
    world.stopped(_name(command))
    world.snapshot(_name(command), str(command.values["snapshot"]))


def _before_diff(world: World, command: Runnable) -> None:
    world.ready(_name(command))
    for end in ("since", "until"):
        if command.values[end]:
            world.snapshot(_name(command), str(command.values[end]))


def _before_snapshots(world: World, command: Runnable) -> None:
    if command.values["unwanted"]:
        world.stopped(_name(command))
        world.snapshot(_name(command), str(command.values["unwanted"]))


def _before_label(world: World, command: Runnable) -> None:
    """Prepare a session without the label."""
    world.absent(_name(command))
    world.stopped(_name(command))


def _before_copy(world: World, command: Runnable) -> None:
    del command
    world.ready("dev")
    world.user.ok("exec", "dev", "--", "mkdir", "-p", "project/results")


def _before_exec(world: World, command: Runnable) -> None:
    world.ready(*(set(re.findall(r"\bexec (?:--?\w+ )?([a-z]+)\b", command.text)) or {"dev"}))


def _before_promote(world: World, command: Runnable) -> None:
    assert world.array_job
    world.absent(_name(command))


def _before_switch(world: World, command: Runnable) -> None:
    other = PROFILE if OTHER_PROFILE in world.fill_in(command.text) else OTHER_PROFILE
    world.on_profile(_name(command), other)


def _before_extend(world: World, command: Runnable) -> None:
    """Leave room for a longer job: the lab has slurm.longest_job."""
    world.stopped(_name(command))
    world.user.ok("start", _name(command), "--time=1:00:00")


def _before_key(world: World, command: Runnable) -> None:
    del command
    world.new_keys()


def _before_commit(world: World, command: Runnable) -> None:
    """Prepare a session with a change in its system, on the small image."""
    world.absent(_name(command))
    world.user.ok("start", _name(command), "--profile", OTHER_PROFILE)
    world.user.ok("exec", _name(command), "--", "touch", "/opt/tool")
    world.user.ok("stop", _name(command))
    world.run("berth profile delete mine@2 --yes")


def _before_build(world: World, command: Runnable) -> None:
    if "mine" in command.text:
        world.run("berth profile delete mine@1 --yes")


def _before_profile_delete(world: World, command: Runnable) -> None:
    del command
    world.absent("dev")
    world.run("berth profile build mine.yaml")


def _before_retire(world: World, command: Runnable) -> None:
    kind = str(command.values["kind"])
    if not world.authority_key(kind, FORMER):
        for _ in range(2):
            world.run(f"berth ca rotate {kind} --now", user="root")


def _before_backup(world: World, command: Runnable) -> None:
    del command
    world.user.site.lab.sh("install -d -o alice /backup")
    world.stopped("dev")


def _before_sbatch(world: World, command: Runnable) -> None:
    world.stopped(_name(command))
    if found := re.search(r"--at (\S+)", command.text):
        world.snapshot(_name(command), found[1])


def _before_search(world: World, command: Runnable) -> None:
    del command
    world.stopped("dev")
    world.run(r"""printf '#!/bin/sh\nexec berth sbatch "$@"\n' >bin/sbatch; chmod +x bin/sbatch""")


def _asking(group: str, before: Step, after: Step = _nothing) -> Situation:
    """Return the situation of a command that asks, and gets yes as the answer."""
    return Situation(group, before, after, terminal=True, stdin=b"y\n" * 20)


SCRIPT = b"#!/bin/sh\n#SBATCH --time=5 --mem=200M\ntrue\n"
"""A script for sbatch's standard input."""
LOOKS_AT_READY = Situation(before=_ready)
STORAGE = "/shared/berth/alice"

BY_PATH: dict[tuple[str, ...], Situation] = {
    HELP: Situation(),
    ("help",): Situation(),
    ("version",): Situation(),
    ("completion",): Situation(),
    ("doctor",): Situation(),
    ("config", "check"): Situation(),
    ("config", "show"): Situation(),
    ("list",): Situation(),
    ("cluster",): Situation(),
    ("show",): LOOKS_AT_READY,
    ("explain",): LOOKS_AT_READY,
    ("events",): LOOKS_AT_READY,
    ("history",): LOOKS_AT_READY,
    ("who",): LOOKS_AT_READY,
    ("logs",): LOOKS_AT_READY,
    ("size",): LOOKS_AT_READY,
    ("verify",): LOOKS_AT_READY,
    ("open",): LOOKS_AT_READY,
    ("services",): LOOKS_AT_READY,
    ("forward",): Situation(before=_ready, codes=(0, 3)),  # --remove, of a port that is not published
    ("connect",): LOOKS_AT_READY,
    ("ssh",): LOOKS_AT_READY,
    ("set",): LOOKS_AT_READY,
    ("diff",): Situation(before=_before_diff),
    ("exec",): Situation(before=_before_exec),
    ("cp",): Situation(before=_before_copy),
    ("key", "list"): Situation(),
    ("profile", "list"): Situation(),
    ("profile", "check"): Situation(),
    ("profile", "verify"): Situation(),
    ("profile", "sbom"): Situation(),
    ("profile", "diff"): Situation(),
    ("ca", "list"): Situation(),
    ("ssh-config",): Situation(),
    ("login",): Situation(WORK),
    ("logout",): Situation(WORK),
    ("key", "add"): Situation(WORK, before=_before_key),
    ("key", "remove"): Situation(WORK, before=_before_key),
    ("quickstart",): _asking(WORK, _nothing),
    ("gc",): Situation(FILES),
    ("extend",): Situation(JOBS, before=_before_extend, after=_is_ready),
    ("resize",): _asking(JOBS, _ready, _is_ready),
    ("restart",): _asking(JOBS, _ready_names),
    ("stop",): _asking(JOBS, _ready_names, _after_stop),
    ("start",): Situation(JOBS, before=_before_start, after=_after_start),
    ("snapshot",): Situation(FILES, before=_before_label),
    ("snapshots",): _asking(FILES, _before_snapshots),
    ("rollback",): _asking(FILES, _before_rollback),
    ("clone",): Situation(FILES, before=_before_clone, after=_after_new),
    ("switch",): _asking(FILES, _before_switch),
    ("flatten",): Situation(FILES, before=_stopped),
    ("rename",): Situation(FILES, before=_before_rename, after=_after_new),
    ("delete",): _asking(FILES, _before_delete, _after_delete),
    ("restore",): Situation(FILES, before=_before_restore, after=_after_restore),
    ("sbatch",): Situation(WORK, before=_before_sbatch, stdin=SCRIPT),
    ("fetch",): Situation(WORK),
    ("promote",): Situation(FILES, before=_before_promote),
    ("profile", "build"): Situation(WORK, before=_before_build),
    ("profile", "commit"): _asking(WORK, _before_commit),
    ("profile", "delete"): _asking(WORK, _before_profile_delete),
    ("registry", "rebuild"): Situation(SITE, user="root"),
    ("ca", "rotate"): Situation(SITE, user="root"),
    ("ca", "retire"): Situation(SITE, before=_before_retire, user="root", codes=(0, 5)),  # 5: too early, without --now
}
"""The situations of Berth's commands."""

_ENDLESS = r"berth .* (-f|--watch)$|curl .*text/event-stream"
"""Commands that show changes until they are interrupted."""
_INTERRUPTED = "env --default-signal=INT timeout --preserve-status --signal=INT 3"
"""Run a command, and interrupt it after 3 s. A shell without job control lets background processes ignore SIGINT."""

BY_PATTERN: dict[str, Situation] = {
    _ENDLESS: Situation(before=_ready, codes=(130,)),  # ends by Ctrl-C
    r"berth exec -- ": Situation(JOBS, before=_only_dev),  # takes the only session with a job
    r"berth exec -t ": Situation(before=_ready, terminal=True, stdin=b"q" * 20),
    r"berth exec --root ": _asking(JOBS, _ready),
    r"berth resize \S+ --cancel$": Situation(JOBS, before=_ready, codes=(0, 5)),  # 5: no resize waits
    r"berth profile build (base|triton-xpu)$": Situation(user="carol", codes=(0, 5)),  # 5: this version exists
    r"berth stop dev && berth delete": _asking(JOBS, _ready),
    r"(curl|mkdir|cd) ": Situation(),
    r"(unshare|apptainer) ": Situation(node="c1"),
    r"ssh -t ": Situation(before=_ready, laptop=True, terminal=True, stdin=b"exit\n" * 3),
    r"flock -s lock tar ": Situation(FILES, before=_before_backup, directory=STORAGE),
    r"tar --xattrs .* -xzf /backup/": Situation(FILES, directory=STORAGE),
    r"printf '#!/bin/sh": Situation(WORK),
    r"BERTH_ENV=dev PATH=": Situation(WORK, before=_before_search),
    rf"({'|'.join(OPENSSH)}) .*\bdev\.berth\b": Situation(before=_ready, laptop=True),
}
"""The situations of other programs, and of single forms of Berth's commands: they come first."""


def situation_of(command: Runnable) -> Situation | None:
    """Return the situation of the command, or None if there is none."""
    for pattern, situation in BY_PATTERN.items():
        if re.match(pattern, command.text):
            return situation
    return BY_PATH.get(command.path)


def run(world: World, command: Runnable, situation: Situation) -> str:
    """Run the command in its situation, and check its end; return what is wrong, or an empty string."""
    text = command.text
    try:
        if situation.group != LOOK:
            situation.before(world, command)
        text = _with_values(world, command)
        if situation.laptop:
            done = world.run_on_laptop(text, terminal=situation.terminal, stdin=situation.stdin)
        else:
            where: dict[str, Any] = {"directory": situation.directory} if situation.directory else {}
            done = world.run(
                text,
                node=situation.node,
                user=situation.user,
                terminal=situation.terminal,
                stdin=situation.stdin,
                **where,
            )
        said = (done.stdout + done.stderr).decode(errors="replace")[-600:]
        if done.returncode not in situation.codes:
            return f"{command.place}: {text}: exit code {done.returncode}: {said}"
        situation.after(world, command)
    except subprocess.TimeoutExpired as error:
        return f"{command.place}: {text}: not within {error.timeout:g} s"
    except AssertionError as error:
        return f"{command.place}: {text}: {error or 'not what it says'}"
    return ""


def _with_values(world: World, command: Runnable) -> str:
    text = world.fill_in(command.text)
    if command.path == ("ca", "retire"):
        text = text.replace("SHA256:x", world.authority_key(str(command.values["kind"]), FORMER))
    if "layers/0" in text:
        layer = world.user.site.lab.sh(f"ls {STORAGE}/layers | head -1")
        text = re.sub(r"layers/\w{26}", f"layers/{layer}", text)
    return f"{_INTERRUPTED} {text}" if re.match(_ENDLESS, text) else text
