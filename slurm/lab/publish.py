"""A loopback port of the machine that leads to a port of a node.

The forwarder listens in the machine's network namespace and then moves into the node's: a socket stays in the namespace
in which it was made. So nothing routes between the two networks, and the forwarder ends with the lab, like everything
else in its namespaces.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import network, processes
from slurm.lab.errors import LabError
from slurm.lab.spec import ADDRESSES, PublishedPort

if TYPE_CHECKING:
    from slurm.lab.paths import LabPaths

CLONE_NEWNET = 0x40000000
CHUNK_BYTES = 1 << 16


def publish_port(place: LabPaths, wanted: PublishedPort) -> None:
    """Return once connections to the port reach the node. Do nothing if they already do."""
    record = _record(place, wanted)
    if record.exists():
        if record.read_text().split()[0] == str(wanted):
            return
        raise LabError(
            f"{record.name} is published as {record.read_text().split()[0]}",
            hint=f"python3 -m slurm.lab unpublish {wanted.port} --name {place.name}",
        )
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((wanted.address, wanted.port))
    except OSError as error:
        raise LabError(f"cannot listen on {record.name}: {error.strerror}", hint="choose another port") from error
    listener.listen(4096)
    with listener, (place.logs / f"publish.{wanted.port}.log").open("a") as log:
        forwarder = subprocess.Popen(
            [
                sys.executable, "-m", "slurm.lab.publish",
                str(listener.fileno()), str(network.NAMESPACES / place.netns(wanted.node)),
                ADDRESSES[wanted.node], str(wanted.node_port),
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[listener.fileno()], start_new_session=True,
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"]},
        )  # fmt: skip
    record.write_text(f"{wanted} {forwarder.pid}\n")


def unpublish_port(place: LabPaths, port: int) -> None:
    """End the forwarding from this port of the machine; LabError if there is none."""
    for each, pid in published_ports(place).items():
        if each.port == port:
            if pid in processes.lab_processes(place):
                os.kill(pid, signal.SIGTERM)
            _record(place, each).unlink()
            return
    raise LabError(f"port {port} is not published")


def published_ports(place: LabPaths) -> dict[PublishedPort, int]:
    """Return the published ports, with the process id of each forwarder."""
    found = {}
    for record in sorted(place.published.glob("*")):
        text, pid = record.read_text().split()
        found[PublishedPort.parse(text)] = int(pid)
    return found


def _record(place: LabPaths, entry: PublishedPort) -> Path:
    return place.published / f"{entry.address}:{entry.port}"


def forward(listener: socket.socket, target: tuple[str, int]) -> None:
    """Serve until the listener is closed: two threads for each connection, which move bytes without looking at them."""
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            if listener.fileno() == -1:
                return
            raise
        threading.Thread(target=_connect, args=(near, target), daemon=True).start()


def _connect(near: socket.socket, target: tuple[str, int]) -> None:
    try:
        far = socket.create_connection(target, timeout=10)
    except OSError:
        near.close()
        return
    relay_streams(near, far)


def relay_streams(near: socket.socket, far: socket.socket) -> None:
    """Move bytes both ways until both directions have ended, then close both sockets."""
    for each in (near, far):
        each.settimeout(None)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back = threading.Thread(target=_copy, args=(far, near), daemon=True)
    back.start()
    _copy(near, far)
    back.join()
    near.close()
    far.close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Move bytes through a pipe inside the kernel until the source ends, then end the sink's direction."""
    read_end, write_end = os.pipe()
    try:
        while count := os.splice(source.fileno(), write_end, CHUNK_BYTES):
            while count:
                count -= os.splice(read_end, sink.fileno(), count)
    except OSError:
        _shut(source, socket.SHUT_RD)
    finally:
        os.close(read_end)
        os.close(write_end)
        _shut(sink, socket.SHUT_WR)


def _shut(end: socket.socket, how: int) -> None:
    try:
        end.shutdown(how)
    except OSError:
        return  # it is closed already


def main(argv: list[str]) -> None:
    """Arguments: the listener's descriptor, the network namespace to move into, target address, target port."""
    descriptor, namespace, address, port = argv
    listener = socket.socket(fileno=int(descriptor))
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(namespace).open() as handle:
        if libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns", namespace)
    forward(listener, (address, int(port)))


if __name__ == "__main__":
    main(sys.argv[1:])
