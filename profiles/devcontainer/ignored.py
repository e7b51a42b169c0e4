"""The keys of devcontainer.json that a session cannot honour, with the reasons. Nothing is ignored in silence."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.devcontainer.jsonc import JsonData

Verdict = Literal["taken", "changed", "ignored"]
MAX_SHOWN_CHARS = 100
_LOCAL = re.compile(r"\$\{(?:localEnv|env):([A-Za-z0-9_]+)")


@dataclass(frozen=True, slots=True)
class Finding:
    """A key, and its use in Berth."""

    key: str
    verdict: Verdict
    text: str
    important: bool = False
    """Whether something that the author relies on is missing in the session."""


_NO_PRIVILEGE = "sessions run without any privilege on the node, and no user can get one"
IGNORED = {
    "privileged": _NO_PRIVILEGE,
    "capAdd": _NO_PRIVILEGE,
    "securityOpt": "the site decides how sessions are confined",
    "runArgs": "they are options of a container engine, and a session is a Slurm job; use `hostRequirements`, `mounts` "
    "and `containerEnv`",
    "initializeCommand": "it would run on this machine, outside the session; run it yourself if you trust it",
    "containerUser": "a session runs as you; the image's own users have no processes in it",
    "remoteUser": "a session runs as you, with your own home",
    "updateRemoteUserUID": "files in a session belong to you already",
    "init": "a session has a first process of its own, which reaps others",
    "entrypoint": "a session starts sshd, and nothing of the image; use `postStartCommand`",
    "appPort": "a session publishes no port on the node; use `forwardPorts`",
    "otherPortsAttributes": "only ports in `forwardPorts` become services",
    "overrideCommand": "the image's own command never runs in a session",
    "shutdownAction": "a session ends by `berth stop NAME`, its idle time or its time limit",
    "userEnvProbe": "tools in a session read its login environment",
    "waitFor": "`berth up` waits for all commands",
    "secrets": "Berth asks for no secrets; put them into the session's home",
    "runServices": "sessions have one container",
    "service": "sessions have one container",
    "build.cacheFrom": "each user has a build cache of their own",
    "build.options": "they are options of a container engine",
    "build.cachefrom": "each user has a build cache of their own",
}
REFUSED_KEYS = {"dockerComposeFile": "sessions have one container, and this file describes several"}
SILENT = {"$schema", "name", "dockerFile", "context"}
IMPORTANT = {"privileged", "capAdd", "securityOpt", "runArgs", "initializeCommand", "entrypoint"}
_BUILD_KEYS = {"dockerfile", "context", "args", "target"}
_HOST_KEYS = {"cpus", "memory", "storage", "gpu"}
_OWN_CUSTOMIZATIONS = {"vscode", "berth"}


def ignored_keys(data: dict[str, JsonData], known: set[str]) -> Iterator[Finding]:
    """Yield each key that Berth does not use. `known` has those of the schema, as the file spells them."""
    for key, value in data.items():
        if key in known or key in SILENT:
            continue
        why = IGNORED.get(key) or _unknown_key(key, known)
        yield Finding(key, "ignored", f"{_shorten(value)}: {why}", key in IMPORTANT and value not in (False, [], None))
    for section, inner, own in (
        ("build", data.get("build"), _BUILD_KEYS),
        ("hostRequirements", data.get("hostRequirements"), _HOST_KEYS),
    ):
        for key in inner if isinstance(inner, dict) else ():
            if key not in own:
                name = f"{section}.{key}"
                yield Finding(name, "ignored", IGNORED.get(name) or _unknown_key(key, own))
    yield from _customizations(data.get("customizations"))
    yield from _attributes(data.get("portsAttributes"))


def local_variables(data: dict[str, JsonData]) -> Iterator[Finding]:
    """Yield the variables of the user's environment that get into the image, by the keys that name them."""
    build = data.get("build")
    arguments = build.get("args") if isinstance(build, dict) else None
    for key, part in (("build.args", arguments), ("containerEnv", data.get("containerEnv"))):
        names = dict.fromkeys(_LOCAL.findall(json.dumps(part)))
        if names:
            yield Finding(key, "taken", f"the image gets {', '.join(names)} of your environment", important=True)


def _customizations(value: JsonData) -> Iterator[Finding]:
    for tool, inner in value.items() if isinstance(value, dict) else ():
        if tool not in _OWN_CUSTOMIZATIONS:
            yield Finding(f"customizations.{tool}", "ignored", "it is for another program")
        elif tool == "vscode" and isinstance(inner, dict):
            for key in inner.keys() - {"extensions"}:
                why = "VS Code reads it from the repository's .vscode, or from your own settings"
                yield Finding(f"customizations.vscode.{key}", "ignored", why)


def _attributes(value: JsonData) -> Iterator[Finding]:
    for port, inner in value.items() if isinstance(value, dict) else ():
        for key in inner.keys() - {"label"} if isinstance(inner, dict) else ():
            why = "`berth open NAME SERVICE` decides how a service is opened"
            yield Finding(f"portsAttributes.{port}.{key}", "ignored", why)


def _unknown_key(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    return "Berth does not know this key" + (f"; did you mean `{near[0]}`?" if near else "")


def _shorten(value: JsonData) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 1]}…"
