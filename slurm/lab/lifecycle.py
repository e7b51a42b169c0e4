"""`up` and `down`: the order of things, and nothing left behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import accounting, cgroups, daemons, network, node, processes, publish, site
from slurm.lab.commands import run
from slurm.lab.enter import exec_argv
from slurm.lab.errors import LabError
from slurm.lab.interrupts import terminable, uninterrupted
from slurm.lab.modes import world_readable
from slurm.lab.paths import RUN
from slurm.lab.progress import wait_until
from slurm.lab.rootfs import root
from slurm.lab.spec import COMPUTE, LOGIN, NODES, Spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from slurm.lab.paths import Place
    from slurm.lab.progress import Progress
    from slurm.lab.spec import Publish


ORDER = (("munged", "mariadbd", "sshd"), ("slurmdbd",), ("slurmctld", "slurmd"))
"""The daemons in the order in which they need each other."""


def up(place: Place, spec: Spec, published: Sequence[Publish], cache: Path, progress: Progress) -> None:
    """Bring the lab up; return when Slurm would run a job on every node.

    If it is up already in this form, nothing happens but that daemons that died are started. If a step fails, or on
    SIGINT and SIGTERM, what was begun is taken down again and the logs are kept.
    """
    with locked(place), terminable(), world_readable():
        if place.ready_file.exists() and _is_running(place):
            _same_or_refuse(place, spec)
            again = [f"{daemon} on {name}" for group in ORDER for name, daemon in start_daemons(place, *group)]
            progress.say(f"lab {place.name} is already up" + (f"; started again: {', '.join(again)}" if again else ""))
        else:
            base = root(cache, progress, spec.suite)
            _claim(place)
            _clear(place)
            with _taken_down_on_failure(place):
                _bring_up(place, spec, [base, *map(Path, spec.layers)], progress)
        for each in published:
            publish.publish(place, each)


def down(place: Place, *, keep: bool = False) -> None:
    """Take away every process, mount, namespace, control group and interface of the lab, whatever state it is in.

    The state directory goes too, with the shared file system in it, unless `keep`: then the next `up` goes on with it.
    """
    with locked(place), uninterrupted():
        if keep:
            _save(place)
        _clear(place)
        if not keep and place.spec_file.exists():
            shutil.rmtree(place.state)


def _bring_up(place: Place, spec: Spec, lower: list[Path], progress: Progress) -> None:
    place.spec_file.write_text(json.dumps({"lower": [str(path) for path in lower], **asdict(spec)}, indent=1))
    for directory in (place.shared, place.site, place.logs, place.published):
        directory.mkdir(exist_ok=True)
    place.shared.chmod(0o755)
    place.record()
    site.write(place, spec, lower)
    network.create(place)
    progress.say("network namespaces made")
    node.boot(place, spec, NODES, lower)
    progress.say(f"nodes booted: {', '.join(NODES)}")
    for group in ORDER:
        start_daemons(place, *group)
        progress.say(f"{', '.join(group)}: started")
        if "slurmdbd" in group:
            accounting.register(place, spec)
            progress.say("cluster, account and users registered")
    wait_for_slurm(place)
    progress.say("all nodes are idle")
    place.ready_file.touch()


def _claim(place: Place) -> None:
    """Take the state directory; `down` deletes it, so it must be new or a lab's own."""
    place.state.mkdir(parents=True, exist_ok=True)
    if not place.spec_file.exists() and any(place.state.iterdir()):
        raise LabError(f"{place.state} is not empty, and no lab's", hint="choose another --state directory")


def start_daemons(place: Place, *names: str, nodes: Iterable[str] = NODES) -> list[tuple[str, str]]:
    """Start those daemons of these names that do not run, wherever they belong, and wait until all of them answer.

    Returns what was started, as pairs of node and daemon.
    """
    chosen = [(n, d) for d in daemons.DAEMONS if d.name in names for n in nodes if n in d.nodes]
    dead = [(n, d) for n, d in chosen if daemons.process_of(place, n, d) is None]
    for name, daemon in dead:
        daemons.start(place, name, daemon)
    for name, daemon in chosen:
        daemons.wait_for(place, name, daemon)
    return [(name, daemon.name) for name, daemon in dead]


def wait_for_slurm(place: Place, *, seconds: float = 60) -> None:
    """Return once every compute node is idle or at work and sacct answers."""
    argv = exec_argv(LOGIN, ["sinfo", "--noheader", "--Node", "--partition=gpu", "--format=%N %t"], lab=place)

    def all_usable() -> bool:
        try:
            states = dict(line.split() for line in run(argv, seconds=15).splitlines())
        except LabError:
            return False
        return all(states.get(name) in {"idle", "mix", "alloc"} for name in COMPUTE)

    wait_until(all_usable, seconds=seconds, what="usable compute nodes", log=place.log(LOGIN, "slurmctld"))
    run(exec_argv(LOGIN, ["sacct", "--noheader"], lab=place), log=place.log(LOGIN, "slurmdbd"))


def power_on(place: Place, name: str) -> None:
    """Boot a node that was powered off, and start its daemons."""
    spec, lower = load(place)
    if processes.init_pid(place, name) is not None:
        raise LabError(f"node {name} is up already")
    node.boot(place, spec, [name], lower)
    for group in ORDER:
        start_daemons(place, *group, nodes=[name])


def load(place: Place) -> tuple[Spec, list[Path]]:
    """The spec that the lab was brought up with, and the read-only trees of its nodes, the lowest first."""
    try:
        data = json.loads(place.spec_file.read_text())
    except FileNotFoundError as error:
        raise LabError(f"lab {place.name} is not up", hint=f"python3 -m slurm.lab up --name {place.name}") from error
    return Spec.from_json(data), [Path(item) for item in data["lower"]]


@contextlib.contextmanager
def locked(place: Place) -> Iterator[None]:
    """Only one process at a time changes a lab."""
    RUN.mkdir(exist_ok=True)
    with (RUN / f".{place.name}.lock").open("w+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"another command is changing lab {place.name}", hint="wait for its end") from error
        yield


@contextlib.contextmanager
def _taken_down_on_failure(place: Place) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with uninterrupted():
            _clear(place)
        raise


def _save(place: Place) -> None:
    """End the daemons that have something to save, in the order of who tells whom; one that hangs is killed later."""
    for name in ("slurmctld", "slurmdbd", "mariadbd"):
        with contextlib.suppress(LabError):
            daemons.stop(place, LOGIN, daemons.daemon_named(name, LOGIN))


def _clear(place: Place) -> None:
    """Undo all that the kernel knows of the lab. Mounts are the nodes' own and go with their last process."""
    place.ready_file.unlink(missing_ok=True)
    processes.kill_all(place)
    network.remove(place)
    cgroups.remove(cgroups.existing(place.cgroup("*")))
    shutil.rmtree(place.published, ignore_errors=True)
    place.forget()


def _is_running(place: Place) -> bool:
    return all(processes.init_pid(place, name) is not None for name in NODES)


def _same_or_refuse(place: Place, spec: Spec) -> None:
    running, _ = load(place)
    if running.fingerprint() != spec.fingerprint():
        old, new = asdict(running), asdict(spec)
        differs = ", ".join(key for key in old if json.dumps(old[key]) != json.dumps(new[key]))
        raise LabError(
            f"lab {place.name} is up with other settings: {differs}",
            hint=f"python3 -m slurm.lab down --name {place.name}, or give the new lab another --name",
        )
