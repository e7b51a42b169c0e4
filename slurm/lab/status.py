"""The status of a lab: every node, its daemons by process id, its state in Slurm, and the published ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slurm.lab import daemons, publish
from slurm.lab.commands import run_tool
from slurm.lab.enter import exec_argv
from slurm.lab.errors import LabError
from slurm.lab.processes import init_pid
from slurm.lab.spec import ADDRESSES, LOGIN, NODES

if TYPE_CHECKING:
    from slurm.lab.paths import LabPaths

ANSWER_TIMEOUT_S = 5
"""Seconds after which Slurm counts as silent."""


def lab_status(place: LabPaths) -> dict[str, Any]:
    """Return the lab as plain data for JSON. `healthy` is true if every daemon serves and Slurm answers."""
    nodes = {node: _node(place, node) for node in NODES}
    states = _slurm_states(place) if nodes[LOGIN]["pid"] else None
    for node, entry in nodes.items():
        entry["slurm"] = (states or {}).get(node)
    serving = all(daemon["serves"] for entry in nodes.values() for daemon in entry["daemons"].values())
    return {
        "name": place.name,
        "state": str(place.state),
        "shared": str(place.shared),
        "up": place.ready_file.exists(),
        "healthy": serving and states is not None,
        "slurm_answers": states is not None,
        "nodes": nodes,
        "published": [
            {"address": p.address, "port": p.port, "node": p.node, "node_port": p.node_port, "pid": pid}
            for p, pid in publish.published_ports(place).items()
        ],
    }


def render_status(data: dict[str, Any]) -> str:
    """Return the status as text."""
    health = "healthy" if data["healthy"] else "not healthy" if data["up"] else "down"
    lines = [f"lab {data['name']}: {health}   (state: {data['state']})"]
    for name, node in data["nodes"].items():
        where = f"{node['address']}  pid {node['pid']}" if node["pid"] else "down"
        lines.append(f"  {name:6} {where}  {node['slurm'] or ''}".rstrip())
        for daemon, entry in node["daemons"].items():
            state = (
                f"pid {entry['pid']}" + ("" if entry["serves"] else ", does not serve")
                if entry["pid"]
                else "does not run"
            )
            lines.append(f"           {daemon:10} {state}")
    lines += [f"  {p['address']}:{p['port']} leads to {p['node']}:{p['node_port']}" for p in data["published"]]
    return "\n".join(lines)


def _node(place: LabPaths, node: str) -> dict[str, Any]:
    return {
        "pid": init_pid(place, node),
        "address": ADDRESSES[node],
        "netns": place.netns(node),
        "daemons": {
            daemon.name: {
                "pid": daemons.daemon_pid(place, node, daemon),
                "serves": daemons.is_listening(place, node, daemon),
                "log": str(place.log(node, daemon.name)),
            }
            for daemon in daemons.DAEMONS
            if node in daemon.nodes
        },
    }


def _slurm_states(place: LabPaths) -> dict[str, str] | None:
    """Return slurmctld's state of each compute node, such as `idle`; None if it does not answer."""
    argv = ["sinfo", "--noheader", "--Node", "--partition=gpu", "--format=%N %T"]
    try:
        answer = run_tool(exec_argv(LOGIN, argv, lab=place), seconds=ANSWER_TIMEOUT_S)
    except LabError:
        return None
    return dict(line.split() for line in answer.splitlines())
