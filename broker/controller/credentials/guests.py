"""The files by which a session's sshd lets guests in: each guest's keys run one program, under that guest's name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from broker.schema.grants import Role
from broker.ssh.keys import PublicKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.controller.credentials.login import SshCredentials

ROLE_PROGRAMS = {
    Role.WATCH: "/run/berth/node/watch",
    Role.PAIR: "/run/berth/node/pair",
    Role.USE: "/run/berth/node/as-owner",  # `use` is a file of process 1 of the container
}
"""The program of each role that lets guests into a session (broker/job/guest)."""


@dataclass(frozen=True, slots=True)
class AdmittedGuest:
    """A guest whom a session lets in."""

    login: SshCredentials
    role: Role
    until: float | None = None
    """The end of the grant; None if it has none."""

    @property
    def lines(self) -> list[str]:
        """Return the lines of authorized_keys (sshd(8)) for the guest's keys and certificates."""
        command = f"exec python3 -I {ROLE_PROGRAMS[self.role]} {self.login.user}"
        options = f'restrict,pty,command="{command}"{_expiry(self.until)}'
        authorities = [
            f'cert-authority,principals="{self.login.user}",{options} {line}' for line in self.login.authorities
        ]
        return [f"{options} {line}" for line in self.login.keys] + authorities


def guest_files(guests: Sequence[AdmittedGuest], number: int) -> dict[str, str]:
    """Return the files for these guests, by their names in session_verbs.FILES.

    `number`: of this renewal of their leases, in nanoseconds since the epoch. A lease ends that is not renewed
    (LEASE_S in broker/job/guest/lease.py).
    """
    plain = {PublicKey.parse(line).blob for guest in guests for line in guest.login.keys}
    # sshd refuses a revoked key also without its certificate; a key that is accepted by itself must not be revoked.
    revoked = {line for guest in guests for line in guest.login.revoked if PublicKey.parse(line).blob not in plain}
    return {
        "guest_keys": _text([line for guest in guests for line in guest.lines]),
        "guest_revoked": _text(sorted(revoked)),
        "guests": _text([f"lease {number}", *(f"{guest.role} {guest.login.user}" for guest in guests)]),
    }


def _expiry(until: float | None) -> str:
    """Return the option that ends a key's line one to two days after its grant, whatever the node's time zone.

    The lease ends it in time. OpenSSH before 9.1 takes times only in the zone of the node.
    """
    if until is None:
        return ""
    return f',expiry-time="{datetime.fromtimestamp(until, UTC) + timedelta(days=2):%Y%m%d}"'


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
