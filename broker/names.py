"""What names look like, for the command line, which checks them before it loads what checks everything else."""

from __future__ import annotations

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,38}$"
"""A session's or profile's name: safe as host name label (RFC 1123), path component and Slurm job name."""

VERSION_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}$"
"""A profile's version: what dpkg takes for one, without an epoch."""
