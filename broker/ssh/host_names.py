"""Host names of sessions for ssh: `<owner>.<name>.<domain>`, short `<name>.<domain>` or `<name>`.

Host names are case-insensitive and ssh(1) lower-cases them before use (RFC 4343), so letters are folded here. An owner
may contain dots and underscores; a session's name may not. So names are parsed from the right: the domain, one label
for the session, and the rest is the owner.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from broker.errors import InvalidInputError
from broker.names import NAME_PATTERN, USER_PATTERN

GUEST_LOGIN = "berth-guest"
"""The login name of guests at a session's sshd (broker/job/container/second_logins.sh)."""
SEPARATOR = "+"
"""The character between user and session in a login name at the gateway."""
_NAME = re.compile(NAME_PATTERN)
_OWNER = re.compile(USER_PATTERN)


@dataclass(frozen=True, slots=True)
class SessionHost:
    """A session's owner and name."""

    owner: str
    name: str

    @classmethod
    def parse(cls, text: str, domain: str, caller: str) -> SessionHost:
        """Parse the host name that a client requests; a name without an owner is the caller's own session.

        InvalidInputError if `text` has none of the three forms; its message is safe for a terminal.
        """
        host = text.lower() if text.isascii() else text
        rest, below_domain = _without_domain(host, domain)
        owner, dot, name = rest.rpartition(".")
        if dot and not below_domain:
            raise _host_name_error(text, domain)
        if not dot:
            owner = caller
        if not _NAME.fullmatch(name) or not (owner == caller or _OWNER.fullmatch(owner)):
            raise _host_name_error(text, domain)
        return cls(owner, name)

    def canonical_name(self, domain: str) -> str:
        """Return the full host name, which the session's host certificate always contains."""
        return f"{self.owner}.{self.name}.{domain}"

    def principals(self, domain: str) -> list[str]:
        """Return all names for the host certificate; the short one is for clients without Berth's ssh_config."""
        return [self.canonical_name(domain), f"{self.name}.{domain}"]


@dataclass(frozen=True, slots=True)
class GatewayLogin:
    """A login name at the gateway: a user and, after a `+`, the host name of the session to be reached.

    `User alice+alice.dev.berth` tells the gateway the session before the forward to it, when a banner can still be
    shown (ADR 132). No user of Berth has a `+` in the name.
    """

    user: str
    target: str

    @classmethod
    def parse(cls, text: str) -> GatewayLogin:
        """Parse the login name that a client sends. Neither part is checked here."""
        user, _, target = text.partition(SEPARATOR)
        return cls(user, target)

    def session_name(self, domain: str) -> str:
        """Return the name of the user's own session that is the target; empty without such a target."""
        try:
            host = SessionHost.parse(self.target, domain, self.user)
        except InvalidInputError:
            return ""
        return host.name if host.owner == self.user else ""


def gateway_host(domain: str) -> str:
    """Return the name that the gateway's host certificate contains besides its real names.

    It is below `domain`, so one `@cert-authority *.<domain>` line covers it. No session can have it: session names do
    not begin with an underscore. A site's real gateway must not be named below `domain`, where a session of the same
    name could impersonate it.
    """
    return f"_gateway.{domain}"


def _without_domain(host: str, domain: str) -> tuple[str, bool]:
    suffix = f".{domain}"
    return (host.removesuffix(suffix), True) if host.endswith(suffix) else (host, False)


def _host_name_error(text: str, domain: str) -> InvalidInputError:
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:80])
    return InvalidInputError(
        f"{shown!r} is not a session's host name",
        hint=f"use NAME, NAME.{domain} or OWNER.NAME.{domain}; `berth list` shows your sessions",
    )
