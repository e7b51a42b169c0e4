"""Compare the settings of two recipes: what they give to sessions, apart from the content of the image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.recipe.spec import Profile

CONTENT = {"name", "version", "description", "apt", "pip", "files", "post"}
"""Keys that name the recipe, or make the image's content, which its inventory shows."""


@dataclass(frozen=True, slots=True, order=True)
class SettingChange:
    """A setting that differs. `before` is empty for an added one, `after` for a removed one."""

    key: str
    """Such as `environment.PATH` or `services.jupyter.command`."""
    before: str
    after: str


def compare_settings(before: Profile, after: Profile) -> list[SettingChange]:
    """Return the changes, sorted."""
    old, new = dict(_settings(before)), dict(_settings(after))
    return [
        SettingChange(key, old.get(key, ""), new.get(key, ""))
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _settings(profile: Profile) -> Iterator[tuple[str, str]]:
    for key, value in profile.model_dump(mode="json", exclude=CONTENT).items():
        yield from _flat(key, value)


def _flat(key: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield the leaves. An entry of a list counts by its name or destination, not by its place."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
    elif isinstance(value, list) and all(isinstance(each, dict) for each in value):
        for number, each in enumerate(value):
            yield from _flat(f"{key}.{each.get('name') or each.get('destination') or number}", each)
    elif value is not None:
        yield key, value if isinstance(value, str) else json.dumps(value)
