"""The mounts of a dev container, as text of `docker run --mount` or as an object."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

MOUNT_KEYS = {"type", "source", "src", "target", "destination", "dst", "readonly", "ro"}
MOUNT_TYPES = ("bind", "volume", "tmpfs")


@dataclass(frozen=True, slots=True)
class DevMount:
    """A mount: its type, its source (empty for a volume without a name), its target, and what Berth does not know."""

    type: str
    source: str
    target: str
    readonly: bool = False
    other: tuple[str, ...] = ()


def parse_mount(value: Any) -> DevMount:  # noqa: ANN401 - whatever the file says
    """Read a mount. Raises ValueError with the rule that it breaks."""
    if isinstance(value, DevMount):
        return value
    if isinstance(value, str):
        try:
            [fields] = csv.reader([value], strict=True)
        except (ValueError, csv.Error) as error:
            raise ValueError("must be one line as of `docker run --mount`") from error
        pairs = {key.strip(): text for key, _, text in (field.partition("=") for field in fields)}
    elif isinstance(value, dict) and all(isinstance(each, str | bool) for each in value.values()):
        pairs = {key: each if isinstance(each, str) else str(each).lower() for key, each in value.items()}
    else:
        raise ValueError("must be text such as `source=NAME,target=/PATH,type=volume`, or an object")
    kind = pairs.get("type", "volume")
    if kind not in MOUNT_TYPES:
        raise ValueError(f"the type must be one of {', '.join(MOUNT_TYPES)}")
    target = pairs.get("target") or pairs.get("destination") or pairs.get("dst") or ""
    parts = target.split("/")
    if not target.startswith("/") or ".." in parts or not target.strip("/") or not target.isprintable():
        raise ValueError("the target must be an absolute path below / without `..`")
    source = pairs.get("source") or pairs.get("src") or ""
    if kind == "bind" and not source.startswith("/"):
        raise ValueError("the source of a bind must be an absolute path, as `${localWorkspaceFolder}/data`")
    readonly = any(pairs.get(key, "false") in {"", "true", "1"} for key in ("readonly", "ro") if key in pairs)
    other = tuple(sorted(pairs.keys() - MOUNT_KEYS))
    return DevMount(kind, source, target.rstrip("/"), readonly, other)


MountField = Annotated[DevMount, BeforeValidator(parse_mount)]
