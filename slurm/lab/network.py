"""The lab's network: one named namespace for each node and one for the switch between them. It has no route out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.commands import run_tool
from slurm.lab.spec import ADDRESSES, NODES

if TYPE_CHECKING:
    from slurm.lab.paths import LabPaths

SWITCH = "switch"
NAMESPACES = Path("/run/netns")


def create_network(place: LabPaths) -> None:
    """Make the namespaces, a bridge in the switch, and a cable from each node to it."""
    switch = place.netns(SWITCH)
    run_tool(["ip", "-batch", "-"], stdin="".join(f"netns add {place.netns(name)}\n" for name in (SWITCH, *NODES)))
    cables = "".join(
        f"link add {node} type veth peer name eth0 netns {place.netns(node)}\nlink set {node} master br0 up\n"
        for node in NODES
    )
    run_tool(
        ["ip", "-netns", switch, "-batch", "-"],
        stdin=f"link set lo up\nlink add br0 type bridge\nlink set br0 up\n{cables}",
    )
    for node in NODES:
        run_tool(
            ["ip", "-netns", place.netns(node), "-batch", "-"],
            stdin=f"link set lo up\nlink set eth0 up\naddr add {ADDRESSES[node]}/24 dev eth0\n",
        )


def remove_network(place: LabPaths) -> None:
    """Delete all namespaces of the lab. Their links go with them."""
    for path in existing_namespaces(place):
        run_tool(["ip", "netns", "delete", path.name])


def existing_namespaces(place: LabPaths) -> list[Path]:
    return sorted(NAMESPACES.glob(f"{place.netns('*')}"))
