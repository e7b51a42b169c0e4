"""The names of features: `./FOLDER` beside devcontainer.json, or `REGISTRY/NAMESPACE/ID[:VERSION|@DIGEST]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_FEATURE_NAME_CHARS = 512

_REGISTRY_FEATURE = re.compile(
    r"(?P<name>(?:localhost|[a-z0-9-]+(?:\.[a-z0-9-]+)+|[a-z0-9.-]+:[0-9]+|localhost:[0-9]+)(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+)"
    r"(?::(?P<tag>[a-z0-9_][a-z0-9_.-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_NUMBERS = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class FeatureReference:
    """A checked name of a feature. Make it with `parse_feature`."""

    name: str
    """Without version and digest: `./FOLDER`, or registry, namespace and id in lower case."""
    tag: str = ""
    digest: str = ""

    @property
    def is_local(self) -> bool:
        return self.name.startswith("./")

    @property
    def age(self) -> tuple[int, list[int]]:
        """A key that sorts the tags of one feature from the oldest to the newest; `latest` is the newest."""
        if self.tag in {"", "latest"}:
            return (1, [])
        return (0, [int(number) for number in _NUMBERS.findall(self.tag)])

    def __str__(self) -> str:
        return f"{self.name}{f':{self.tag}' if self.tag else ''}{f'@{self.digest}' if self.digest else ''}"


def parse_feature(text: str) -> FeatureReference:
    """Read the name of a feature. Raises ValueError with the rule that it breaks."""
    if len(text) > MAX_FEATURE_NAME_CHARS or not text.isprintable():
        raise ValueError("is not one line of at most 512 characters")
    if text.startswith("./"):
        parts = text[2:].rstrip("/").split("/")
        if set(parts) & {"", ".", ".."}:
            raise ValueError("must be a folder below that of devcontainer.json, without empty parts, `.` and `..`")
        return FeatureReference("./" + "/".join(parts))
    if text.startswith(("../", "/")):
        raise ValueError("must be a folder below that of devcontainer.json, as in `./my-feature`")
    if text.startswith(("https:", "http:")):
        raise ValueError("is an archive on the web, which Berth does not fetch: use its name in a registry")
    found = _REGISTRY_FEATURE.fullmatch(text.lower())
    if found is None:
        raise ValueError("must be `./FOLDER`, or `REGISTRY/NAMESPACE/ID` and perhaps `:VERSION` or `@sha256:DIGEST`")
    return FeatureReference(found["name"], found["tag"] or "", found["digest"] or "")
