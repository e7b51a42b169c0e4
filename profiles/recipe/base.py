"""The base of a profile: a Debian suite, another profile's image, a SIF file, or a container image."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from profiles.errors import ReferenceInvalidError
from profiles.oci.reference import ImageReference

_SUITE = re.compile(r"[a-z][a-z0-9-]{0,38}")
_IMAGE = re.compile(
    r"(?P<owner>(?:(?:own|site)/)?)(?P<name>[a-z][a-z0-9-]{0,38})@(?P<version>[0-9A-Za-z][0-9A-Za-z.+~-]{0,63})"
)
_DOCKERFILE = re.compile(r"(?P<folder>[^#\x00-\x1f\x7f]+)(?:#(?P<target>[A-Za-z0-9][A-Za-z0-9._-]{0,127}))?")


class BaseKind(StrEnum):
    DEBIAN = "debian"
    PROFILE = "profile"
    SIF = "sif"
    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    OCI_LAYOUT = "oci-layout"
    DOCKER_ARCHIVE = "docker-archive"
    DOCKERFILE = "dockerfile"
    DEVCONTAINER = "devcontainer"

    @property
    def is_path(self) -> bool:
        """Whether the rest of the base is the path of a file or folder."""
        return self not in {BaseKind.DEBIAN, BaseKind.PROFILE, BaseKind.OCI}

    @property
    def is_container_image(self) -> bool:
        """Whether the base is an image of OCI or Docker, which consists of layers."""
        return not self.is_derived and self not in {BaseKind.DEBIAN, BaseKind.PROFILE, BaseKind.SIF}

    @property
    def is_derived(self) -> bool:
        """Whether the base itself is built first, from files of a repository."""
        return self in {BaseKind.DOCKERFILE, BaseKind.DEVCONTAINER}


_PATH_KINDS = {kind.value: kind for kind in BaseKind if kind.is_path}


@dataclass(frozen=True, slots=True)
class Base:
    """`kind:rest`, checked; `suite`, `name` and `version`, `image`, or `path` is set, as the kind needs."""

    kind: BaseKind
    suite: str = ""
    name: str = ""
    version: str = ""
    owner: str = ""
    """`own/`, `site/`, or empty: as in profiles.image.catalog."""
    path: Path = Path()
    image: ImageReference | None = None
    target: str = ""
    """The stage of a Dockerfile; empty for the last."""

    def __str__(self) -> str:
        match self.kind:
            case BaseKind.DEBIAN:
                return f"debian:{self.suite}"
            case BaseKind.PROFILE:
                return f"profile:{self.reference}@{self.version}"
            case BaseKind.OCI:
                return f"oci:{self.image}"
            case _:
                return f"{self.kind}:{self.path}{f'#{self.target}' if self.target else ''}"

    @property
    def reference(self) -> str:
        """The name of the profile, with its owner if the recipe says it."""
        return f"{self.owner}{self.name}"

    def resolve(self, folder: Path) -> Base:
        """Take a relative path from `folder`."""
        return replace(self, path=folder / self.path) if self.kind.is_path else self

    def pin(self, digest: str) -> Base:
        """Name the image of a registry by the digest of its manifest, beside its tag; other bases stay as they are."""
        return replace(self, image=replace(self.image, digest=digest)) if self.image else self


def parse_base(value: object) -> Base:
    """Read `kind:rest`, as docs/reference/profile.md describes it. Raises ValueError."""
    if isinstance(value, Base):
        return value
    kind, _, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind == BaseKind.DEBIAN and _SUITE.fullmatch(rest):
        return Base(BaseKind.DEBIAN, suite=rest)
    if kind == BaseKind.PROFILE and (found := _IMAGE.fullmatch(rest)):
        return Base(BaseKind.PROFILE, name=found["name"], version=found["version"], owner=found["owner"])
    if kind == BaseKind.OCI:
        return Base(BaseKind.OCI, image=_parse_image(rest))
    if kind == BaseKind.DOCKERFILE and (found := _DOCKERFILE.fullmatch(rest)):
        return Base(BaseKind.DOCKERFILE, path=Path(found["folder"]), target=found["target"] or "")
    if kind in _PATH_KINDS and kind != BaseKind.DOCKERFILE and rest and rest.isprintable():
        return Base(_PATH_KINDS[kind], path=Path(rest))
    raise ValueError(
        "must be debian:<suite>, profile:<name>@<version>, oci:<image>, or sif:, oci-archive:, oci-layout:, "
        "docker-archive:, dockerfile: or devcontainer: with a path"
    )


def _parse_image(text: str) -> ImageReference:
    try:
        return ImageReference.parse(text)
    except ReferenceInvalidError as error:
        raise ValueError(f"{error.message}; {error.hint}" if error.hint else error.message) from error
