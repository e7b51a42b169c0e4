"""The label `devcontainer.metadata` of a container image: what its authors want of every dev container from it.

The label is a part of devcontainer.json, or a list of such parts, one for each feature and each file that the image was
built from. They are merged with the repository's own file as the specification has it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from profiles.devcontainer.ignored import IGNORED, IMPORTANT, Finding
from profiles.devcontainer.schema import (
    MAX_PORTS,
    CommonSettings,
    DevContainer,
    GpuDetails,
    HostRequirements,
    Text,
    size_mebibytes,
)
from profiles.devcontainer.variables import Surroundings, substitute
from profiles.errors import ProfileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from profiles.devcontainer.config import DevConfig

METADATA_LABEL = "devcontainer.metadata"
MAX_METADATA_CHARS = 256 << 10
MAX_ENTRIES = 128
_ANYWHERE = Surroundings("/workspaces", "/workspaces", "/workspaces", {})
"""Stands for the repository while an image is built, whose label may name it."""


class MetadataEntry(CommonSettings):
    """One part of the label."""

    id: Text = ""
    """The feature that it comes from."""

    @property
    def origin(self) -> str:
        return self.id or "the image"


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """The parts of the label as JSON, checked; and why the label is ignored, if it is."""

    entries: tuple[dict[str, Any], ...] = ()
    fault: str = ""

    def environment(self) -> dict[str, str]:
        """Return the variables that containers from the image have, the last value of each."""
        return {name: value for entry in self.entries for name, value in _entry(entry, _ANYWHERE).container_env.items()}


NO_METADATA = ImageMetadata()
"""Of an image without the label, and of one that is not for a dev container."""


def read_metadata(settings: Mapping[str, Any]) -> ImageMetadata:
    """Return the label in the settings of an image. One that is damaged is ignored as a whole."""
    labels = settings.get("Labels")
    text = labels.get(METADATA_LABEL) if isinstance(labels, dict) else None
    if text is None:
        return NO_METADATA
    if not isinstance(text, str) or len(text) > MAX_METADATA_CHARS:
        return ImageMetadata(fault=f"it is no text of at most {MAX_METADATA_CHARS >> 10} KiB")
    try:
        return parse_metadata(json.loads(text))
    except (ValueError, RecursionError):
        return ImageMetadata(fault="it is no valid JSON")


def parse_metadata(data: object) -> ImageMetadata:
    """Return the checked parts of a label."""
    listed: list[Any] = data if isinstance(data, list) else [data]
    if len(listed) > MAX_ENTRIES or not all(isinstance(each, dict) for each in listed):
        return ImageMetadata(fault=f"it must have at most {MAX_ENTRIES} objects")
    try:
        for each in listed:
            _entry(each, _ANYWHERE)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))[:100]
        return ImageMetadata(fault=f"`{place}` is not as in devcontainer.json")
    except (ValueError, RecursionError):
        return ImageMetadata(fault="its texts are too long with their variables")
    return ImageMetadata(tuple(listed))


def metadata_entries(metadata: ImageMetadata, config: DevConfig) -> list[MetadataEntry]:
    """Return the parts with their variables replaced.

    `localEnv` is empty: an image must not ask for the environment of its user. Raises ProfileError if the texts become
    too large.
    """
    around = Surroundings(str(config.workspace), config.inside, str(config.file), {})
    try:
        return [_entry(each, around) for each in metadata.entries]
    except ValueError as error:
        raise ProfileError(f"the image's label {METADATA_LABEL} does not fit: {error}", file=config.file) from error


def _entry(data: dict[str, Any], around: Surroundings) -> MetadataEntry:
    """Return a part with its variables replaced. ValidationError, ValueError if they become too large."""
    return MetadataEntry.model_validate(substitute(data, around))


def merge_metadata(config: DevConfig, entries: Sequence[MetadataEntry]) -> DevConfig:
    """Return the file's settings merged with those of the image, which count less. Commands are not merged here."""
    own = config.dev
    everything: list[CommonSettings] = [*entries, own]
    ports = list(dict.fromkeys(port for each in everything for port in each.forward_ports))
    # The binds of a session are in its recipe, which is written before the label is known.
    mounts = [mount for each in entries for mount in each.mounts if mount.type != "bind"] + own.mounts
    extensions = dict.fromkeys(name for each in everything for name in each.customizations.vscode.extensions)
    vscode = own.customizations.vscode.model_copy(update={"extensions": list(extensions)})
    merged = own.model_copy(
        update={
            "remote_env": {name: value for each in everything for name, value in each.remote_env.items()},
            "mounts": list({mount.target: mount for mount in mounts}.values()),
            "forward_ports": ports[:MAX_PORTS],
            "ports_attributes": {key: value for each in everything for key, value in each.ports_attributes.items()},
            "host": _most(each.host for each in everything),
            "customizations": own.customizations.model_copy(update={"vscode": vscode}),
        }
    )
    assert isinstance(merged, DevContainer)
    return replace(config, dev=merged)


def metadata_findings(metadata: ImageMetadata) -> list[Finding]:
    """Return what the report says of the label, with the keys that no session honours."""
    if metadata.fault:
        return [Finding(METADATA_LABEL, "ignored", f"{metadata.fault}: ask the image's authors", important=True)]
    if not metadata.entries:
        return []
    taken = f"{len(metadata.entries)} parts of the image's label, merged with this file"
    keys = dict.fromkeys(
        key for each in metadata.entries for key, value in each.items() if value not in (False, [], None)
    )
    ignored = [
        Finding(f"{key} of the image", "ignored", IGNORED[key], important=key in IMPORTANT)
        for key in keys
        if key in IGNORED
    ]
    mounts = [mount for each in metadata.entries for mount in _entry(each, _ANYWHERE).mounts]
    if any(mount.type == "bind" for mount in mounts):
        ignored.append(
            Finding("mounts of the image", "ignored", "an image cannot have directories bound", important=True)
        )
    return [Finding(METADATA_LABEL, "taken", taken), *ignored]


def _most(requirements: Iterable[HostRequirements]) -> HostRequirements:
    """Return the largest of each requirement."""
    found = list(requirements)
    sizes = {
        name: max((size for each in found if (size := getattr(each, name))), key=size_mebibytes, default=None)
        for name in ("memory", "storage")
    }
    gpu: Any = False
    for each in found:
        gpu = _more_gpu(gpu, each.gpu)
    cpus = max((each.cpus for each in found if each.cpus), default=None)
    return HostRequirements(cpus=cpus, gpu=gpu, **sizes)


def _more_gpu(one: Any, other: Any) -> Any:  # noqa: ANN401 - the values of HostRequirements.gpu
    """Return the larger wish for a GPU: none, `optional`, one, one with details."""
    if not one or not other:
        return one or other
    details = [each for each in (one, other) if isinstance(each, GpuDetails)]
    if not details:
        return "optional" if one == other == "optional" else True
    return GpuDetails(
        cores=max((each.cores for each in details if each.cores), default=None),
        memory=max((each.memory for each in details if each.memory), key=size_mebibytes, default=None),
    )
