"""A cut of the network between browsers on the lab's login node and berth-web."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from slurm.lab import network
from slurm.lab.spec import LOGIN
from tests.deadlines import DEADLINE_S
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab_cluster import Lab

TABLE = "inet cut"
RULES = f"""
table {TABLE} {{
  chain arriving {{
    type filter hook input priority 0
    tcp dport {deploy.WEB_PORT} drop
    tcp sport {deploy.WEB_PORT} drop
  }}
}}
"""


@contextlib.contextmanager
def cut_network(lab: Lab) -> Iterator[None]:
    """Lose every packet to and from berth-web's port for the time of the block, without an error to either side."""
    enter = ["nsenter", f"--net={network.NAMESPACES / lab.place.netns(LOGIN)}", "nft"]
    subprocess.run([*enter, "-f", "-"], input=RULES, text=True, check=True, timeout=DEADLINE_S)
    try:
        yield
    finally:
        subprocess.run([*enter, "delete", "table", *TABLE.split()], check=True, timeout=DEADLINE_S)
