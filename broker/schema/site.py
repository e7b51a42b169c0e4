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
    """The site's settings that a client needs for its ssh configuration."""

    user: str
    domain: str
    """The suffix of session host names, such as `berth`: `<owner>.<name>.<domain>`."""
    gateway_host: str
    """Empty if the site runs no gateway (personal mode)."""
    gateway_port: int
    login_host: str
    """The login node, for `ssh <login_host> berth connect %h`."""
    ca_public_keys: list[str]
    """OpenSSH public-key lines of the authorities for host certificates of sessions and gateway."""
    revoked_host_keys: list[str] = []
    """Host keys of the caller's deleted sessions, and former ones of renamed and restored sessions, as long as their
    certificates may be valid."""
    login_with: Literal["keys", "certificates", "both"] = "keys"
    """Accepted credentials."""
    mode: str
    """`site` or `personal`."""
    profile_stores: list[str] = []
    """Directories of the site's stores of profiles; none in personal mode, where all stores are the user's."""
    portal_url: str = ""
    """The portal's address; empty without web access."""


class DoctorCheck(Strict):
    name: str
    ok: bool
    detail: str
    hint: str = ""


class DoctorReport(Strict):
    checks: list[DoctorCheck]


class RebuildReport(Strict):
    """The result of `berth registry rebuild`."""

    restored: list[str]
    """`owner/name` of every restored session."""
    skipped: list[str] = []
    """Manifests that could not be used, each with the reason."""
