"""The session's part of a devcontainer.json: resources, mounts, ports, variables, commands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from profiles.devcontainer.ignored import Finding
from profiles.devcontainer.lifecycle import LIFECYCLE_KEYS, Hook, make_hook
from profiles.devcontainer.schema import GpuDetails, size_mebibytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from profiles.devcontainer.config import DevConfig
    from profiles.devcontainer.feature_graph import FeatureNode
    from profiles.devcontainer.image_metadata import MetadataEntry
    from profiles.devcontainer.mounts import DevMount

MAX_PORT = 65_535


@dataclass(slots=True)
class SessionPart:
    """The session's part of a dev container, and the findings for the report."""

    options: dict[str, str] = field(default_factory=dict)
    """Options of sbatch without their hyphens."""
    wants_gpu: bool = False
    """Whether a GPU is welcome, but not required."""
    binds: list[DevMount] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    """Directories that must exist in the session."""
    ports: dict[int, str] = field(default_factory=dict)
    """Ports that become services, with their titles."""
    hooks: list[Hook] = field(default_factory=list)
    """In the order in which they run."""
    findings: list[Finding] = field(default_factory=list)

    def say(self, key: str, verdict: str, text: str, *, important: bool = False) -> None:
        assert verdict in {"taken", "changed", "ignored"}
        self.findings.append(Finding(key, verdict, text, important))  # type: ignore[arg-type] # as asserted


def session_part(
    config: DevConfig,
    nodes: Sequence[FeatureNode],
    is_allowed: Callable[[str], bool],
    entries: Sequence[MetadataEntry] = (),
) -> SessionPart:
    """Return what the file and its features ask of a session.

    `is_allowed` says whether the site lets sessions see a directory of the shared file system. `entries` are those of
    the image, with which the settings of `config` are merged already; their commands come first.
    """
    part = SessionPart()
    _resources(config, part)
    for key, mount in _all_mounts(config, nodes):
        _mount(key, mount, part, is_allowed)
    _ports(config, part)
    part.hooks = list(_hooks(config, nodes, entries))
    for key in LIFECYCLE_KEYS:
        hooks = [hook for hook in part.hooks if hook.key == key]
        if hooks:
            count = sum(len(hook.lines) for hook in hooks)
            part.say(key, "taken", f"{count} command{'s' if count > 1 else ''}, in the session, as you")
    if config.dev.remote_env:
        part.say("remoteEnv", "taken", f"login shells and the commands get {', '.join(config.dev.remote_env)}")
    if extensions := config.dev.customizations.vscode.extensions:
        text = f"{len(extensions)} listed in ~/.config/berth/vscode-extensions of the session"
        part.say("customizations.vscode.extensions", "changed", text)
    return part


def _resources(config: DevConfig, part: SessionPart) -> None:
    host = config.dev.host
    if host.cpus:
        part.options["cpus-per-task"] = str(host.cpus)
        part.say("hostRequirements.cpus", "taken", f"--cpus-per-task={host.cpus}")
    if host.memory:
        part.options["mem"] = f"{size_mebibytes(host.memory)}M"
        part.say("hostRequirements.memory", "taken", f"--mem={part.options['mem']}")
    if host.storage:
        part.options["tmp"] = f"{size_mebibytes(host.storage)}M"
        part.say("hostRequirements.storage", "taken", f"--tmp={part.options['tmp']}: disk space of the node")
    if host.gpu == "optional":
        part.wants_gpu = True
        part.say("hostRequirements.gpu", "taken", "a GPU if a node of the cluster has one")
    elif host.gpu:
        part.options["gres"] = "gpu:1"
        part.say("hostRequirements.gpu", "taken", "--gres=gpu:1")
    if isinstance(host.gpu, GpuDetails) and (host.gpu.cores or host.gpu.memory):
        why = "Slurm has no such options; name a type of GPU instead, as in `--gres=gpu:TYPE:1`"
        part.say("hostRequirements.gpu.cores and .memory", "ignored", why, important=True)
    for name, value in config.dev.customizations.berth.resources.items():
        if name in {"gpus", "gpus-per-node"}:
            part.options.pop("gres", None)
        part.options[name] = str(value).lower() if isinstance(value, bool) else str(value)
        part.wants_gpu = part.wants_gpu and name not in {"gres", "gpus", "gpus-per-node"}
        part.say(f"customizations.berth.resources.{name}", "taken", f"--{name}={part.options[name]}")


def _all_mounts(config: DevConfig, nodes: Sequence[FeatureNode]) -> Iterator[tuple[str, DevMount]]:
    if config.dev.workspace_mount:
        yield "workspaceMount", config.dev.workspace_mount
    yield from (("mounts", mount) for mount in config.dev.mounts)
    for node in nodes:
        yield from ((f"mounts of {node.name}", mount) for mount in node.feature.metadata.mounts)


def _mount(key: str, mount: DevMount, part: SessionPart, is_allowed: Callable[[str], bool]) -> None:
    if mount.type == "bind":
        unfit = set(mount.source + mount.target) & set(":,\\")
        if unfit or not is_allowed(mount.source):
            why = "its path has `:`, `,` or a backslash" if unfit else "the site does not let sessions see that path"
            part.say(key, "ignored", f"the bind of {mount.source}: {why}", important=True)
        else:
            part.binds.append(mount)
            part.say(key, "taken", f"{mount.source} is bound at {mount.target}")
    elif mount.type == "volume":
        part.folders.append(mount.target)
        part.say(key, "changed", f"{mount.target} is a directory of the session, and kept in it alone")
    else:
        part.say(key, "ignored", f"the tmpfs at {mount.target}: /tmp of a session is on the node already")
    if mount.other:
        part.say(key, "ignored", f"{', '.join(mount.other)} of the mount at {mount.target}")


def _ports(config: DevConfig, part: SessionPart) -> None:
    for port in config.dev.forward_ports:
        found = re.fullmatch(r"(?:localhost:|127\.0\.0\.1:)?([1-9][0-9]{0,4})", str(port))
        if found is None or int(found[1]) > MAX_PORT:
            part.say("forwardPorts", "ignored", f"{str(port)[:80]!r}: only ports of the session itself become services")
            continue
        number = int(found[1])
        attributes = config.dev.ports_attributes.get(str(port))
        part.ports[number] = attributes.label[:60] if attributes else ""
        part.say("forwardPorts", "taken", f"the service port-{number}")


def _hooks(config: DevConfig, nodes: Sequence[FeatureNode], entries: Sequence[MetadataEntry]) -> Iterator[Hook]:
    """Yield the commands by their keys; of each key, those of the image first, then those of the features, as they are
    installed.
    """
    for key in LIFECYCLE_KEYS:
        for entry in entries:
            command = getattr(entry, key)
            hook = make_hook(key, command, entry.origin) if command else None
            if hook:
                yield hook
        for node in nodes:
            command = node.feature.metadata.lifecycle.get(key)
            hook = make_hook(key, command, node.name) if command else None
            if hook:
                yield hook
        own = getattr(config.dev, key)
        hook = make_hook(key, own) if own else None
        if hook:
            yield hook
