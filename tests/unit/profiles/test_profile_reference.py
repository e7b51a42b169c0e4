"""The reference has a heading for every key, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.recipe.check import ProfileCheck
from profiles.recipe.service import Service
from profiles.recipe.spec import BindSpec, File, PersistenceSpec, Profile, parse_profile

if TYPE_CHECKING:
    from pydantic import BaseModel

REFERENCE = Path(__file__).parents[3] / "docs/reference/profile.md"


def test_every_key_has_a_heading() -> None:
    parts: dict[str, type[BaseModel]] = {
        "files": File,
        "persistence": PersistenceSpec,
        "binds": BindSpec,
        "services": Service,
        "checks": ProfileCheck,
    }
    keys = {f"{key}.{part}" for key, model in parts.items() for part in model.model_fields} | set(Profile.model_fields)
    assert set(re.findall(r"^##+ `([a-z_.]+)`$", REFERENCE.read_text(), re.MULTILINE)) == keys


def test_the_example_is_right(tmp_path: Path) -> None:
    (tmp_path / "solver.conf").write_text("")
    example = re.search(r"```yaml\n(.*?)```", REFERENCE.read_text(), re.DOTALL)
    assert example
    assert parse_profile(example[1], tmp_path / "profile.yaml").resources_as_options()[-1] == "--time=8:00:00"
