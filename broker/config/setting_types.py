"""Types of settings, which check single values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints


def _check_absolute(path: Path) -> Path:
    expanded = path.expanduser()
    if not expanded.is_absolute():
        raise ValueError("must be an absolute path")
    return expanded


AbsolutePath = Annotated[Path, AfterValidator(_check_absolute)]
MAX_SOCKET_BYTES = 90
"""107 (unix(7)), without what HAProxy appends while it makes the socket."""
Seconds = Annotated[float, Field(gt=0)]
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$")]


def _node_directory(path: str) -> str:
    plain = path.replace("{user}", "").replace("{job}", "")
    if not re.fullmatch(r"/[A-Za-z0-9_./-]*", plain) or ".." in path.split("/"):
        raise ValueError("must be an absolute path of letters, digits and `_.-/`, in which {user} and {job} may occur")
    return path


NodeDirectory = Annotated[str, StringConstraints(max_length=1024), AfterValidator(_node_directory)]


def parse_host_and_port(listen: str) -> tuple[str, int]:
    """Split `HOST:PORT`; an IPv6 address is in brackets. ValueError for other text."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", listen)
    if found is None or not 0 < int(found[2]) < 65536:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:9418")
    return found[1].strip("[]"), int(found[2])


def _listen(text: str) -> str:
    parse_host_and_port(text)
    return text


Listen = Annotated[str, AfterValidator(_listen)]


def parse_socket_or_port(listen: str) -> Path | tuple[str, int]:
    """Return the path of a Unix socket, or host and port. ValueError for other text."""
    if not listen.startswith("/"):
        return parse_host_and_port(listen)
    if len(listen.encode()) > MAX_SOCKET_BYTES or not re.fullmatch(r"/[A-Za-z0-9_./-]*[A-Za-z0-9_-]", listen):
        raise ValueError(f"the path of a socket has letters, digits and `_.-/`, at most {MAX_SOCKET_BYTES}")
    return Path(listen)


def _socket_or_port(text: str) -> str:
    parse_socket_or_port(text)
    return text


SocketOrPort = Annotated[str, AfterValidator(_socket_or_port)]
