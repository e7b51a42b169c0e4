"""Types of the site: its settings, its health, its events."""

from __future__ import annotations

from typing import Literal

from broker.schema.base import Strict


class EventView(Strict):
    at: float
    actor: str
    """The user or `berth` itself."""
    session: str
    action: str
    detail: str = ""


class EventList(Strict):
    events: list[EventView]


class LogText(Strict):
    text: str


class SiteView(Strict):
    """What a client needs in order to write its ssh configuration."""

    user: str
    domain: str
    """The suffix of session host names, such as `berth`: `<owner>.<name>.<domain>`."""
    gateway_host: str
    """Empty when the site runs no gateway (personal mode)."""
    gateway_port: int
    login_host: str
    """Where `ssh <login_host> berth connect %h` works."""
    ca_public_keys: list[str]
    """OpenSSH public-key lines: whose host certificates of sessions and gateway are to be believed."""
    revoked_host_keys: list[str] = []
    """Those of the caller's deleted sessions, for as long as a certificate for them may be valid."""
    login_with: Literal["keys", "certificates", "both"] = "keys"
    """What lets the caller in."""
    mode: str
    """`site` or `personal`."""


class DoctorCheck(Strict):
    name: str
    ok: bool
    detail: str
    hint: str = ""


class DoctorReport(Strict):
    checks: list[DoctorCheck]


class RebuildReport(Strict):
    """What `berth registry rebuild` found."""

    restored: list[str]
    """`owner/name` of every session that was brought back."""
    skipped: list[str] = []
    """Manifests that could not be used, each with its reason."""
