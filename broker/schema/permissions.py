"""Permissions on a session."""

from __future__ import annotations

from enum import StrEnum


class Permission(StrEnum):
    """One kind of access to a session; `broker.controller.sessions.access` decides who has it."""

    SEE = "see"
    WHO = "who"
    """See the connections to it."""
    CONNECT = "connect"
    VISIT = "visit"
    """Use the session's services in a browser."""
    START = "start"
    STOP = "stop"
    EXTEND = "extend"
    """Extend the time limit of the job."""
    MESSAGE = "message"
    """Write a line to its terminals, as an operator."""
    RESTART = "restart"
    RESIZE = "resize"
    DELETE = "delete"
    LOG = "log"
    SET = "set"
    """Change the session's policies."""
    SNAPSHOT = "snapshot"
    FORGET = "forget"
    """Delete a snapshot."""
    ROLLBACK = "rollback"
    SWITCH = "switch"
    CLONE = "clone"
    INSPECT = "inspect"
    """Read the data: list snapshots, compare, measure, verify."""
    FLATTEN = "flatten"
    ROOT = "root"
    RENAME = "rename"
    SHARE = "share"
    """Give grants, list and revoke them."""
    RESTORE = "restore"
    """Bring a deleted session back."""
