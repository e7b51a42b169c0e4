"""The base of a profile: a Debian suite, another profile's image, or a SIF file."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

_SUITE = re.compile(r"[a-z][a-z0-9-]{0,38}")
_IMAGE = re.compile(
    r"(?P<owner>(?:(?:own|site)/)?)(?P<name>[a-z][a-z0-9-]{0,38})@(?P<version>[0-9A-Za-z][0-9A-Za-z.+~-]{0,63})"
)


class BaseKind(StrEnum):
    DEBIAN = "debian"
    PROFILE = "profile"
    SIF = "sif"


@dataclass(frozen=True, slots=True)
class Base:
    """`kind:rest`, checked; `suite`, `name` and `version`, or `path` is set, as the kind needs."""

    kind: BaseKind
    suite: str = ""
    name: str = ""
    version: str = ""
    owner: str = ""
    """`own/`, `site/`, or empty: as in profiles.image.catalog."""
    path: Path = Path()

    def __str__(self) -> str:
        match self.kind:
            case BaseKind.DEBIAN:
                return f"debian:{self.suite}"
            case BaseKind.PROFILE:
                return f"profile:{self.reference}@{self.version}"
            case BaseKind.SIF:
                return f"sif:{self.path}"

    @property
    def reference(self) -> str:
        """The name of the profile, with its owner if the recipe says it."""
        return f"{self.owner}{self.name}"

    def resolved(self, folder: Path) -> Base:
        """Take a relative path from `folder`."""
        return replace(self, path=folder / self.path) if self.kind is BaseKind.SIF else self


def parse_base(value: object) -> Base:
    """Read `debian:<suite>`, `profile:[own/|site/]<name>@<version>` or `sif:<path>`. Raises ValueError."""
    if isinstance(value, Base):
        return value
    kind, _, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind == BaseKind.DEBIAN and _SUITE.fullmatch(rest):
        return Base(BaseKind.DEBIAN, suite=rest)
    if kind == BaseKind.PROFILE and (found := _IMAGE.fullmatch(rest)):
        return Base(BaseKind.PROFILE, name=found["name"], version=found["version"], owner=found["owner"])
    if kind == BaseKind.SIF and rest and rest.isprintable():
        return Base(BaseKind.SIF, path=Path(rest))
    raise ValueError("must be debian:<suite>, profile:<name>@<version> or sif:<path>")
