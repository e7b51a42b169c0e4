"""The services of a running session, as the program inside it lists them: see broker/job/service."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.errors import ProfileError
from profiles.recipe.service import Service, format_services, parse_service_file, parse_services

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKETS = "/run/berth/web"
"""The directory of the services' sockets in a session: on the node, and only for its owner."""
PROGRAM = "/run/berth/node/service"
NO_PROGRAM_CODE = 69
"""Exit code of `remote_command` in a session without the program: its job was submitted by an earlier release."""
MAX_ANSWER_BYTES = 8 << 20
"""Limit for the list: 32 files of 128 KiB, and the profile's services (broker/job/service/list.sh)."""

_FIRST_LINE = b"berth-services 1\n"


@dataclass(frozen=True, slots=True)
class ListedService:
    """A service and its state."""

    service: Service
    own: bool
    """Whether it comes from the user, and not from the profile."""
    state: str
    """`stopped`, `starting`, `ready`, `waiting` before it starts again, or `failed`."""
    published: bool = False
    """Whether it is a port of the session, and not a service of the user's files."""

    @property
    def title(self) -> str:
        return self.service.title or self.service.name

    @property
    def socket(self) -> str:
        return f"{SOCKETS}/{self.service.socket}"

    @property
    def request(self) -> str:
        """The first lines that `attach` reads: the definition of a service of the user, and an empty one."""
        return format_services([self.service]) if self.own else "\n"


@dataclass(frozen=True, slots=True)
class ServiceCatalogue:
    """The services of a session by their names, and faults of the user's files in plain words."""

    services: dict[str, ListedService]
    problems: list[str]


def remote_command(*arguments: str) -> str:
    """Return the command line that runs the program in a session, for any login shell there."""
    program = f"[ -f {PROGRAM} ] || exit {NO_PROGRAM_CODE}; exec /bin/bash {PROGRAM} {shlex.join(arguments)}"
    return shlex.join(["/bin/sh", "-c", program])


def parse_catalogue(answer: bytes) -> ServiceCatalogue:
    """Read the program's list. A service of the user replaces one of the profile of the same name, and a published
    port replaces both.

    Raises ValueError if the answer is not such a list.
    """
    declared: list[Service] = []
    own: dict[str, Service] = {}
    ports: dict[str, Service] = {}
    states: dict[str, str] = {}
    problems: list[str] = []
    for kind, name, content in _pieces(answer):
        match kind:
            case "declared":
                declared = parse_services(content)
            case "published":
                ports |= {service.name: service for service in parse_services(content)}
            case "state":
                states[name] = content.partition(" ")[0]
            case "file":
                problems += _add_own(own, name, content)
            case "unfit":
                problems.append(f"services.d/{name}: not a regular file that can be read")
            case "more":
                problems.append(f"services.d: more than {content} files; the others are ignored")
            case _:
                pass  # of a later release
    listed = {service.name: ListedService(service, False, states.get(service.name, "stopped")) for service in declared}
    listed |= {name: ListedService(service, True, states.get(name, "stopped")) for name, service in own.items()}
    listed |= {name: ListedService(service, True, states.get(name, "stopped"), True) for name, service in ports.items()}
    return ServiceCatalogue(listed, problems + _shared_sockets(listed))


def _pieces(answer: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and content: a line `KIND BYTES NAME`, then so many bytes."""
    start = answer.find(_FIRST_LINE)
    if start < 0:
        raise ValueError("no list of services")
    at = start + len(_FIRST_LINE)
    while at < len(answer):
        begin = answer.index(b"\n", at) + 1
        kind, size, name = answer[at : begin - 1].decode("ascii").split(" ")
        at = begin + int(size)
        if not begin <= at <= len(answer):
            raise ValueError("an entry is cut off")
        yield kind, name, answer[begin:at].decode(errors="replace")


def _add_own(own: dict[str, Service], name: str, content: str) -> list[str]:
    """Add the services of a file; return its faults. A file with a fault adds none."""
    try:
        services = parse_service_file(content, Path("services.d") / name)
    except ProfileError as error:
        return [str(error)]
    twice = [service.name for service in services if service.name in own]
    own |= {service.name: service for service in services if service.name not in twice}
    return [f"services.d/{name}: {each} is in another file too, which is used" for each in twice]


def _shared_sockets(listed: dict[str, ListedService]) -> list[str]:
    """Take out services of the user whose socket another service has; return the faults."""
    problems = []
    sockets = {each.socket: name for name, each in listed.items() if not each.own}
    for name, each in list(listed.items()):
        if each.own and sockets.setdefault(each.socket, name) != name:
            problems.append(f"services.d: {name} has the socket {each.service.socket} of {sockets[each.socket]}")
            del listed[name]
    return problems
