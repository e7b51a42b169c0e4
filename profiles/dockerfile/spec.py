"""The build of a Dockerfile: its files, its target, its arguments and its secrets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from profiles.dockerfile.content import content_digest
from profiles.dockerfile.ignore_file import find_ignore_file, is_source, read_ignore_file
from profiles.dockerfile.instructions import read_dockerfile, sources_read
from profiles.errors import NoSuchFileError
from profiles.userfile import is_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DOCKERFILES = ("Containerfile", "Dockerfile")
"""In the order in which buildah looks for them."""


@dataclass(frozen=True, slots=True)
class DockerfileBuild:
    """A build. The paths are absolute."""

    file: Path
    context: Path
    target: str = ""
    """The stage to build; empty for the last."""
    args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """Files that RUN can mount by these names. The image and the build key do not have them."""

    def key(self) -> str:
        """Return `sha256:…` of all that the build reads, but for images and secrets. Raises ProfilesError."""
        instructions = read_dockerfile(self.file)
        rules = read_ignore_file(find_ignore_file(self.context))
        sources = sources_read(instructions)
        files = content_digest(
            self.context, lambda path: not rules.ignores(path) and (sources is None or is_source(sources, path))
        )
        parts = [[each.text for each in instructions], self.target, sorted(self.args.items()), files]
        return f"sha256:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def dockerfile_in(folder: Path) -> Path:
    """Return the Dockerfile of a folder. Raises NoSuchFileError."""
    for name in DOCKERFILES:
        if is_file(folder / name):
            return (folder / name).resolve()
    raise NoSuchFileError(f"{folder} has no Dockerfile", hint="a `dockerfile:` base names the folder that has it")
