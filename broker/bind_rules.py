"""The directories of the shared file system that a site lets sessions see."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def bind_rule(source: str, site: Sequence[str]) -> str | None:
    """Return the first of the site's rules whose path is `source` or an ancestor of it; None if there is none."""
    parts = source.strip("/").split("/")
    for rule in site:
        allowed = rule.removesuffix(":ro").strip("/").split("/")
        if ".." not in parts and parts[: len(allowed)] == allowed:
            return rule
    return None
