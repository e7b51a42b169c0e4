"""Settings with which this machine reaches its package registries: name service, certificates, proxies, pip and apt.

The lab gets them, because a layer, or a build inside a node (`exec --host-network`), must reach the registries too.
"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""Debian's file with all certificates. The lab's copy equals the machine's."""

_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
_APT_SETTINGS = re.compile(r"^Acquire::(.*::Proxy\b.*|Check-Valid-Until|Check-Date|Retries) .*", re.MULTILINE)


def network_variables() -> dict[str, str]:
    """Return the variables that a process on the machine's network needs."""
    proxies = {name: os.environ[name] for name in PROXIES if name in os.environ}
    return {"SSL_CERT_FILE": BUNDLE, **proxies}


def write_host_settings(tree: Path) -> None:
    """Write the settings below `tree`, a directory laid over a root."""
    etc = tree / "etc"
    for directory in ("ssl/certs", "apt/apt.conf.d"):
        (etc / directory).mkdir(parents=True, exist_ok=True)
    (etc / "resolv.conf").write_text(_text(Path("/etc/resolv.conf")))
    (etc / "hosts").write_text(_text(Path("/etc/hosts")))
    bundle = Path(os.environ.get("SSL_CERT_FILE") or BUNDLE)
    if bundle.is_file():
        (tree / BUNDLE[1:]).write_bytes(bundle.read_bytes())
    (etc / "pip.conf").write_text(_pip_conf())
    (etc / "apt/apt.conf.d/80machine").write_text(apt_conf())


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _pip_conf() -> str:
    """Return the machine's pip settings that are valid elsewhere: no paths, no file: addresses."""
    parser = configparser.RawConfigParser()
    parser.read(pip_files(os.environ, Path("/"), Path.home()))
    found = {key: parser.get("global", key, fallback="") for key in _PIP_SETTINGS}
    found |= {key: value for key in _PIP_SETTINGS if (value := os.environ.get(_variable(key)))}
    lines = [f"cert = {BUNDLE}", "disable-pip-version-check = true"]
    for key, value in found.items():
        words = [word for word in value.split() if "://" not in word or word.startswith("http")]
        if words:
            lines.append(f"{key} = {' '.join(words)}")
    return "\n".join(["[global]", *lines, ""])


def pip_files(environment: Mapping[str, str], root: Path, home: Path) -> list[Path]:
    """Return pip's configuration files in pip's order: a later one wins."""
    folders = [Path(name) for name in (environment.get("XDG_CONFIG_DIRS") or str(root / "etc/xdg")).split(":") if name]
    user = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    own = [Path(environment["PIP_CONFIG_FILE"])] if environment.get("PIP_CONFIG_FILE") else []
    system = [folder / "pip/pip.conf" for folder in reversed(folders)]
    return [*system, root / "etc/pip.conf", home / ".pip/pip.conf", user / "pip/pip.conf", *own]


def _variable(key: str) -> str:
    return "PIP_" + key.upper().replace("-", "_")


def apt_conf() -> str:
    """Return apt's settings of downloads in the form of apt.conf(5); empty if apt does not answer."""
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"slurm.lab: apt's settings are not carried into the lab: {error}\n")
        return ""
    return "".join(match[0] + "\n" for match in _APT_SETTINGS.finditer(dump))
