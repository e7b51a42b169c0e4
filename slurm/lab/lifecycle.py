"""Bring a lab up and take it down, without leftovers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import accounting, cgroups, daemons, network, node, processes, publish, site
from slurm.lab.commands import run_tool
from slurm.lab.enter import exec_argv
from slurm.lab.errors import LabError
from slurm.lab.interrupts import terminable, uninterrupted
from slurm.lab.modes import world_readable
from slurm.lab.paths import RUN_DIRECTORY
from slurm.lab.progress import wait_until
from slurm.lab.rootfs import node_root
from slurm.lab.spec import COMPUTE, LOGIN, NODES, LabSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from slurm.lab.paths import LabPaths
    from slurm.lab.progress import ProgressLog
    from slurm.lab.spec import PublishedPort


START_ORDER = (("munged", "mariadbd", "sshd"), ("slurmdbd",), ("slurmctld", "slurmd"))
"""The daemons in the order in which they need each other."""


def bring_up(
    place: LabPaths, spec: LabSpec, published: Sequence[PublishedPort], cache: Path, progress: ProgressLog
) -> None:
    """Bring the lab up. Return when Slurm can run a job on every node.

    If the lab is already up with these settings, only daemons that have died are started. After a failed step, SIGINT
    or SIGTERM, everything is taken down again and the logs are kept.
    """
    with lab_lock(place), terminable(), world_readable():
        if place.ready_file.exists() and _is_running(place):
            _same_or_refuse(place, spec)
            again = [f"{daemon} on {name}" for group in START_ORDER for name, daemon in start_daemons(place, *group)]
            progress.say(f"lab {place.name} is already up" + (f"; restarted: {', '.join(again)}" if again else ""))
        else:
            base = node_root(cache, progress, spec.suite)
            _claim(place)
            _remove_everything(place)
            with _taken_down_on_failure(place):
                _start_everything(place, spec, [base, *map(Path, spec.layers)], progress)
        for each in published:
            publish.publish_port(place, each)


def take_down(place: LabPaths, *, keep: bool = False) -> None:
    """Remove every process, mount, namespace, control group and interface of the lab, in any state.

    The state directory is removed too, with the shared file system in it, unless `keep`. Then the next `up` continues
    with it.
    """
    with lab_lock(place), uninterrupted():
        if keep:
            _stop_daemons(place)
        _remove_everything(place)
        if not keep and place.spec_file.exists():
            # rm(1) accepts files that vanish meanwhile: services in a lab remove theirs as they end.
            subprocess.run(["rm", "-rf", "--one-file-system", "--", place.state], check=True)


def _start_everything(place: LabPaths, spec: LabSpec, lower: list[Path], progress: ProgressLog) -> None:
    place.spec_file.write_text(json.dumps({"lower": [str(path) for path in lower], **asdict(spec)}, indent=1))
    for directory in (place.shared, place.site, place.logs, place.published):
        directory.mkdir(exist_ok=True)
    place.shared.chmod(0o755)
    place.record()
    site.write_site(place, spec, lower)
    network.create_network(place)
    progress.say("network namespaces made")
    node.boot_nodes(place, spec, NODES, lower)
    progress.say(f"nodes booted: {', '.join(NODES)}")
    for group in START_ORDER:
        start_daemons(place, *group)
        progress.say(f"{', '.join(group)}: started")
        if "slurmdbd" in group:
            accounting.register_users(place, spec)
            progress.say("cluster, account and users registered")
    wait_for_slurm(place)
    progress.say("all nodes are idle")
    place.ready_file.touch()


def _claim(place: LabPaths) -> None:
    """Claim the state directory. `down` deletes it, so it must be empty or belong to a lab."""
    place.state.mkdir(parents=True, exist_ok=True)
    if not place.spec_file.exists() and any(place.state.iterdir()):
        raise LabError(f"{place.state} is not empty, and no lab's", hint="choose another --state directory")


def start_daemons(place: LabPaths, *names: str, nodes: Iterable[str] = NODES) -> list[tuple[str, str]]:
    """Start those daemons of these names that do not run, on all of these nodes, and wait until all of them answer.

    Returns the started ones as pairs of node and daemon.
    """
    chosen = [(n, d) for d in daemons.DAEMONS if d.name in names for n in nodes if n in d.nodes]
    dead = [(n, d) for n, d in chosen if daemons.daemon_pid(place, n, d) is None]
    for name, daemon in dead:
        daemons.start_daemon(place, name, daemon)
    for name, daemon in chosen:
        daemons.wait_for_daemon(place, name, daemon)
    return [(name, daemon.name) for name, daemon in dead]


def wait_for_slurm(place: LabPaths, *, seconds: float = 60) -> None:
    """Return once every compute node is idle or at work and sacct answers."""
    argv = exec_argv(LOGIN, ["sinfo", "--noheader", "--Node", "--partition=gpu", "--format=%N %t"], lab=place)

    def all_usable() -> bool:
        try:
            states = dict(line.split() for line in run_tool(argv, seconds=15).splitlines())
        except LabError:
            return False
        return all(states.get(name) in {"idle", "mix", "alloc"} for name in COMPUTE)

    wait_until(all_usable, seconds=seconds, what="usable compute nodes", log=place.log(LOGIN, "slurmctld"))
    run_tool(exec_argv(LOGIN, ["sacct", "--noheader"], lab=place), log=place.log(LOGIN, "slurmdbd"))


def power_on(place: LabPaths, name: str) -> None:
    """Boot a node that was powered off, and start its daemons."""
    spec, lower = load_spec(place)
    if processes.init_pid(place, name) is not None:
        raise LabError(f"node {name} is up already")
    node.boot_nodes(place, spec, [name], lower)
    for group in START_ORDER:
        start_daemons(place, *group, nodes=[name])


def load_spec(place: LabPaths) -> tuple[LabSpec, list[Path]]:
    """Return the spec of the running lab, and the read-only trees of its nodes, the lowest first."""
    try:
        data = json.loads(place.spec_file.read_text())
    except FileNotFoundError as error:
        raise LabError(f"lab {place.name} is not up", hint=f"python3 -m slurm.lab up --name {place.name}") from error
    return LabSpec.from_json(data), [Path(item) for item in data["lower"]]


@contextlib.contextmanager
def lab_lock(place: LabPaths) -> Iterator[None]:
    """Let only one process at a time change a lab."""
    RUN_DIRECTORY.mkdir(exist_ok=True)
    with (RUN_DIRECTORY / f".{place.name}.lock").open("w+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"another command is changing lab {place.name}", hint="wait for its end") from error
        yield


@contextlib.contextmanager
def _taken_down_on_failure(place: LabPaths) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with uninterrupted():
            _remove_everything(place)
        raise


def _stop_daemons(place: LabPaths) -> None:
    """Stop the daemons that have data to save, in the order of their dependencies. A hanging one is killed later."""
    for name in ("slurmctld", "slurmdbd", "mariadbd"):
        with contextlib.suppress(LabError):
            daemons.stop_daemon(place, LOGIN, daemons.daemon_named(name, LOGIN))


def _remove_everything(place: LabPaths) -> None:
    """Remove everything that the kernel has of the lab. Mounts belong to the nodes and go with their last process."""
    place.ready_file.unlink(missing_ok=True)
    processes.kill_all(place)
    network.remove_network(place)
    cgroups.remove_cgroups(cgroups.existing_cgroups(place.cgroup("*")))
    shutil.rmtree(place.published, ignore_errors=True)
    place.forget()


def _is_running(place: LabPaths) -> bool:
    return all(processes.init_pid(place, name) is not None for name in NODES)


def _same_or_refuse(place: LabPaths, spec: LabSpec) -> None:
    running, _ = load_spec(place)
    if running.fingerprint() != spec.fingerprint():
        old, new = asdict(running), asdict(spec)
        differs = ", ".join(key for key in old if json.dumps(old[key]) != json.dumps(new[key]))
        raise LabError(
            f"lab {place.name} is up with other settings: {differs}",
            hint=f"python3 -m slurm.lab down --name {place.name}, or give the new lab another --name",
        )
