"""Network settings of the machine for a build, so that the build reaches package sources as the machine does.

A build uses the machine's proxies, certificate bundle, configuration of pip and npm, and `Acquire` options of apt. The
image keeps only the Debian mirror in its sources.list. docs/howto/profiles.md has the description for users.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path

from profiles.userfile import is_file

KIT = "/run/berth-build"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
"""Variables that name a certificate bundle. The first one that the machine has set counts; all are set in the tree."""

MIRROR = "BERTH_DEBIAN_MIRROR"
"""A mirror's URL, or a sources.list line, for mmdebstrap(1); without it mmdebstrap's own default."""

_NPM_PLACES = frozenset({"cache", "cafile", "globalconfig", "prefix", "tmp", "userconfig"})
APT_OPTIONS = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv")


def outside_environment() -> dict[str, str]:
    """Return the environment of programs that run outside the tree, such as mmdebstrap."""
    kept = {name: os.environ[name] for name in ("TMPDIR", "HOME") if name in os.environ}
    return {"PATH": PATH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **kept, **_proxies()}


def inside_environment(kit: Path) -> dict[str, str]:
    """Return the environment of programs that run in the tree, and put the files that it names into `kit`."""
    environment = {
        "PATH": PATH,
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "APT_CONFIG": f"{KIT}/apt.conf",
        "XDG_CONFIG_DIRS": f"{KIT}/pip-site:{KIT}/pip-user",
        **{name: value for name, value in os.environ.items() if name.startswith("PIP_") and name != "PIP_CONFIG_FILE"},
        "NPM_CONFIG_USERCONFIG": f"{KIT}/npmrc",
        **{name: os.environ[name] for name in os.environ if _is_npm_setting(name)},
        **_proxies(),
    }
    seen = None
    if bundle := certificates():
        seen = Path(KIT) / "certificates.crt"
        shutil.copyfile(bundle, kit / seen.name)
        environment |= dict.fromkeys(
            (*BUNDLES, "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "NPM_CONFIG_CAFILE"), str(seen)
        )
    (kit / "apt.conf").write_text(apt_settings(seen))
    _copy_pip_configuration(kit)
    _copy_npm_configuration(kit)
    return environment


def certificates() -> Path | None:
    """Find the certificate bundle that this machine trusts: the one in its environment, else the system's."""
    named = [os.environ[name] for name in BUNDLES if os.environ.get(name)]
    default = ssl.get_default_verify_paths().cafile
    for candidate in (*named, default, "/etc/ssl/certs/ca-certificates.crt"):
        if candidate and is_file(candidate):
            return Path(candidate)
    return None


def mirrors() -> list[str]:
    """Return the mirrors for mmdebstrap; empty for its own default."""
    return [os.environ[MIRROR]] if os.environ.get(MIRROR) else []


def apt_settings(bundle: Path | None) -> str:
    """Return the machine's apt settings for downloads as apt.conf(5), with `bundle` as the trusted certificates."""
    trust = [f'Acquire::https::CaInfo "{bundle}";'] if bundle else []
    return "".join(f"{line}\n" for line in [*_machine_settings(), *trust])


def _machine_settings() -> list[str]:
    """Return the settings of apt; none on a machine without apt."""
    try:
        done = subprocess.run(
            ["apt-config", "dump"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if line.startswith(APT_OPTIONS) and not line.endswith('"";')]


def _proxies() -> dict[str, str]:
    spellings = [spelling for name in PROXIES for spelling in (name, name.upper())]
    return {name: os.environ[name] for name in spellings if name in os.environ}


def _copy_pip_configuration(kit: Path) -> None:
    """Put pip's files where $XDG_CONFIG_DIRS leads pip. The user's own file counts last, as on the machine."""
    home = Path(os.environ.get("HOME", "/nonexistent"))
    named = os.environ.get("PIP_CONFIG_FILE")
    user = [Path(named)] if named else [home / ".config/pip/pip.conf", home / ".pip/pip.conf"]
    for folder, candidates in (("pip-site", [Path("/etc/pip.conf")]), ("pip-user", user)):
        target = kit / folder / "pip"
        target.mkdir(parents=True)
        for candidate in candidates:
            if is_file(candidate):
                shutil.copy(candidate, target / "pip.conf")
                break


def _is_npm_setting(name: str) -> bool:
    """Whether a variable is a setting of npm's for packages, and not a place on the machine."""
    prefix, _, setting = name.lower().partition("npm_config_")
    return not prefix and bool(setting) and setting not in _NPM_PLACES


def _copy_npm_configuration(kit: Path) -> None:
    """Put the user's file where $NPM_CONFIG_USERCONFIG leads npm."""
    home = Path(os.environ.get("HOME", "/nonexistent"))
    named = next((value for name, value in os.environ.items() if name.lower() == "npm_config_userconfig"), None)
    file = Path(named) if named else home / ".npmrc"
    if is_file(file):
        shutil.copy(file, kit / "npmrc")
