"""All that the gateway's modules need to know of the site: addresses, paths, timeouts and limits, as one object.

`berth gateway` makes it from the `gateway` section of the configuration, and tests make their own. The lists of ssh
algorithms are constants here, because no site may choose weaker ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.ssh.max_startups import MaxStartups

if TYPE_CHECKING:
    from pathlib import Path

    from broker.gateway.admission import Network


KEX = ("mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org")
"""No finite-field groups: their cost is what DHEat (CVE-2002-20001) makes a server pay."""

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
"""Never used, since these ciphers authenticate by themselves; but some must be named, and auditors read the names."""


LOGIN_QUESTIONS, RESOLVE_QUESTIONS, WAIT_QUESTIONS = 48, 32, 2
"""Connections of one worker to the controller, for three purposes: log-ins, records and certificates; endpoints of
sessions; the one question about all sessions that clients wait for. Its successor is asked while it ends."""
API_CONNECTIONS = LOGIN_QUESTIONS + RESOLVE_QUESTIONS + WAIT_QUESTIONS
"""All connections of one worker, however many clients it has. Workers from before a reload need as many again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Decisions of the site and of the tests; times are seconds."""

    listen_host: str
    listen_port: int
    """0 takes any free one; `Gateway.port` tells which."""
    api_socket: Path
    host_key: Path
    """Made at first start; its certificate is kept beside it, and what the controller has answered below it."""
    domain: str
    """The suffix of session host names."""
    name: str = field(default_factory=lambda: os.uname().nodename)
    """The name of this gateway among the site's, for the records of connections."""
    metrics_directory: Path | None = None
    """The directory in which workers write their counters for the master; None: nowhere."""
    login_timeout: float = 20.0
    answer_timeout: float = 10.0
    """For the connection to a session, and for each answer of its sshd to the gateway's guard."""
    keepalive_interval: float = 15.0
    keepalive_count: int = 3
    max_startups: MaxStartups = MaxStartups(256, 30, 1024)  # noqa: RUF009 - frozen
    """Limits on the clients that are logging in at once."""
    penalty_exempt: tuple[Network, ...] = ()
    """Networks from which logins may fail without limit."""
    max_auth_tries: int = 40
    """Offers and signatures of keys on one connection: every key of an agent costs one try, the right one two.
    A session's sshd takes as many (`MaxAuthTries` in broker/job/container/sshd.sh)."""
    max_forwards: int = 64
    """Forwards that one connection may have at once; multiplexing clients share one connection."""
    max_user_connections: int = 128
    """Connections that one user may have at once, over all workers."""
    max_user_forwards: int = 256
    """Forwards that one user may have at once, on all connections and over all workers."""
    max_user_window_bytes: int = 32 * 1024 * 1024
    """Bytes by which the windows of all forwards of one user together may exceed the first window of each."""
    keys_fresh_seconds: float = 5.0
    """Time for which a removed key may still log in, and a new one may not yet."""
    stale_seconds: float = 3600.0
    """Time for which the last known keys and endpoints are used while the controller is down."""
    drain_seconds: float = 10.0
    """Time for which open connections continue after the gateway is stopped."""
