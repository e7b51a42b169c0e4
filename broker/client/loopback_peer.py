"""Find out whose process is at the other end of a connection over the loopback interface.

Linux lists every TCP socket of the machine with its user id in /proc/net/tcp and tcp6 (proc_pid_net(5)).
"""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_TIME_WAIT = "06"
"""The state of a socket without a process, which has no user id (include/net/tcp_states.h of Linux)."""

Address = tuple[str, int]


def loopback_peer_uid(peer: Address, own: Address) -> int | None:
    """Return the user id of the process that has connected from `peer` to our socket `own`; None if it has gone."""
    wanted = {(_format_address(peer, mapped), _format_address(own, mapped)) for mapped in (False, True)}
    for table in _TABLES:
        with Path(table).open(encoding="ascii") as lines:
            next(lines, "")
            for line in lines:
                fields = line.split()
                if (fields[1], fields[2]) in wanted and fields[3] != _TIME_WAIT:
                    return int(fields[7])
    return None


def _format_address(address: Address, mapped: bool) -> str:
    """Return an address as the tables write it: words of the machine's byte order in hexadecimal digits, and the port.

    `mapped`: an IPv4 address as an IPv6 socket has it.
    """
    host = ipaddress.ip_address(address[0])
    if isinstance(host, ipaddress.IPv4Address) and mapped:
        host = ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + host.packed)
    words = struct.unpack(f"={len(host.packed) // 4}I", host.packed)
    return f"{''.join(f'{word:08X}' for word in words)}:{address[1]:04X}"
