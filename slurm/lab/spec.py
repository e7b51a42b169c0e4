"""The specification of a lab: plain data, complete before anything is started."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from slurm.lab.errors import LabError
from slurm.lab.releases import RELEASES, SID

LOGIN = "login"
COMPUTE = ("c1", "c2", "c3")
NODES = (LOGIN, *COMPUTE)

ADDRESSES = {node: f"10.77.0.{10 + index}" for index, node in enumerate(NODES)}
"""Every lab uses the same addresses: they exist only inside its own namespaces."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")

FIRST_UID = 5001
FIRST_SYSTEM_UID = 901
SUBIDS = 65536
MAX_SIMULATED = 9999


@dataclass(frozen=True, slots=True)
class LabAccount:
    """A line of the lab's passwd."""

    name: str
    uid: int
    home: str
    shell: str


@dataclass(frozen=True, slots=True)
class LabBind:
    """A directory of the machine that every node sees."""

    source: str
    target: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> LabBind:
        """Read `SRC:DEST` or `SRC:DEST:ro`."""
        source, _, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        if not source or not target.startswith("/") or mode not in {"", "ro", "rw"}:
            raise LabError(f"--bind {text}: not of the form SRC:DEST[:ro]")
        path = Path(source).resolve()
        if not path.exists():
            raise LabError(f"--bind {text}: {path} does not exist")
        return cls(str(path), target, read_only=mode == "ro")


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A loopback port of the machine that leads to a port of a node."""

    address: str
    port: int
    node: str
    node_port: int

    @classmethod
    def parse(cls, text: str) -> PublishedPort:
        """Read `ADDRESS:PORT:NODE:PORT`."""
        match = re.fullmatch(r"(127\.[0-9.]+):(\d+):([a-z0-9]+):(\d+)", text)
        if match is None:
            raise LabError(
                f"--publish {text}: not of the form 127.0.0.1:PORT:NODE:PORT",
                hint="only loopback addresses: the lab's network stays inside the machine",
            )
        return cls(match[1], int(match[2]), node_named(match[3]), int(match[4]))

    def __str__(self) -> str:
        return f"{self.address}:{self.port}:{self.node}:{self.node_port}"


@dataclass(frozen=True, slots=True)
class LabSpec:
    """One lab. Labs with equal fingerprints are the same lab."""

    name: str = "lab"
    users: tuple[str, ...] = ("alice", "bob", "carol")
    operators: tuple[str, ...] = ()
    """System accounts that are Slurm operators."""
    layers: tuple[str, ...] = ()
    """Read-only trees over the root, the lowest first."""
    binds: tuple[LabBind, ...] = ()
    suite: str = SID
    """The Debian of the nodes, and so their Slurm."""
    simulated: int = 0
    """Nodes that exist in slurmctld alone: jobs can wait for them, and none can run there."""

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise LabError(f"{self.name!r} is no name for a lab", hint="lower-case letters, digits and -, at most 20")
        if self.suite not in RELEASES:
            raise LabError(f"nodes cannot have Debian {self.suite!r}", hint=f"there are {', '.join(RELEASES)}")
        if not 0 <= self.simulated <= MAX_SIMULATED:
            raise LabError(f"{self.simulated} simulated nodes are not possible", hint=f"0 to {MAX_SIMULATED}")
        for user in (*self.users, *self.operators):
            if _USER.fullmatch(user) is None:
                raise LabError(f"{user!r} is no user name")
        for path in self.layers:
            if not Path(path).is_dir():
                raise LabError(f"--layer {path}: no such directory")
            if ":" in path or "," in path:
                raise LabError(f"--layer {path}: overlayfs does not take ':' and ',' in a path")

    @property
    def accounts(self) -> tuple[LabAccount, ...]:
        """People first, then operators; ids depend on the position only."""
        people = [
            LabAccount(name, FIRST_UID + index, f"/shared/home/{name}", "/bin/bash")
            for index, name in enumerate(self.users)
        ]
        system = [
            LabAccount(name, FIRST_SYSTEM_UID + index, f"/var/lib/{name}", "/usr/sbin/nologin")
            for index, name in enumerate(self.operators)
        ]
        return (*people, *system)

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, data: dict[str, object]) -> LabSpec:
        """Rebuild what `dataclasses.asdict` made of a Spec."""
        binds = data["binds"]
        assert isinstance(binds, list)
        return cls(
            name=str(data["name"]),
            users=_strings(data["users"]),
            operators=_strings(data["operators"]),
            layers=_strings(data["layers"]),
            binds=tuple(LabBind(**bind) for bind in binds),
            suite=str(data["suite"]),
            simulated=int(str(data.get("simulated", 0))),
        )


def node_named(name: str) -> str:
    """Return `name` if it is a node. LabError otherwise."""
    if name not in NODES:
        raise LabError(f"no node {name!r}", hint=f"the nodes are {', '.join(NODES)}")
    return name


def _strings(value: object) -> tuple[str, ...]:
    assert isinstance(value, list)
    return tuple(str(item) for item in value)
