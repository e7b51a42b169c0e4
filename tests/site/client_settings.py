"""The machine's client settings for sessions of the demonstration: proxies, pip, npm, apt and certificates.

They are read at run time and laid on the lab's compute nodes, which mount them read-only into sessions
(docs/reference/session-job.md). Sessions can read them, so settings that contain credentials are refused.
Standard library only.
"""

from __future__ import annotations

import configparser
import io
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from slurm.lab import host_settings
from slurm.lab.errors import LabError
from slurm.lab.registry_proxy import PROXY_URL, ProxyRoutes, start_proxy, stop_proxy
from slurm.lab.spec import COMPUTE, NODES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.lab_cluster import Lab

ON_NODE = "/etc/berth/client"
IN_SESSION = "/run/berth/client"
MAX_FILE_BYTES = 1 << 20

PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "timeout")
_NPM_KEY = re.compile(r"registry|@[\w.-]+:registry|strict-ssl|fetch-(?:retries|timeout)")
_NPM_SECRET = re.compile(r"(?:.*:)?_(?:authToken|auth|password)|.*:username|username|password|key|.*:keyfile")
_URL_WITH_SECRET = re.compile(r"://[^/\s\"@]*@")
_URL = re.compile(r"https?://[^\s\",]+")
_REMEDY = "put them into a file that these clients do not read, or: make demo OFFLINE=1"


@dataclass(slots=True)
class ClientSettings:
    """The files for sessions by name, the routes of the proxy, and the settings that were refused."""

    files: dict[str, bytes] = field(default_factory=dict)
    upstream: dict[str, str] = field(default_factory=dict)
    no_proxy: str = ""
    urls: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def accept(self, origin: str, value: str) -> bool:
        """Note the URLs in a value and return True; if one has credentials, note the refusal and return False."""
        if _URL_WITH_SECRET.search(value):
            self.refused.append(f"{origin}: a URL with user:password@")
            return False
        self.urls += _URL.findall(value)
        return True

    def routes(self) -> ProxyRoutes:
        """Return the routes of a proxy for these settings."""
        parts = [urlsplit(url) for url in self.urls]
        named = {
            f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}" for url in parts if url.hostname
        }
        return ProxyRoutes(self.upstream, self.no_proxy, tuple(sorted(named)))


def read_client_settings(environment: Mapping[str, str], root: Path = Path("/")) -> ClientSettings:
    """Read the settings of this machine. LabError names all that contain credentials."""
    home = root / environment.get("HOME", "/root").lstrip("/")
    settings = ClientSettings()
    bundle = Path(environment.get("SSL_CERT_FILE") or root / host_settings.BUNDLE[1:])
    apt = host_settings.apt_conf() if root == Path("/") else _text(root / "etc/apt/apt.conf")
    _read_proxies(settings, environment, apt)
    texts = {
        "apt.conf": _read_apt(settings, apt, with_bundle=bundle.is_file()),
        "pip/pip.conf": _read_pip(settings, environment, root, home),
        "npmrc": _read_npm(settings, environment, root, home),
        "environment": _session_environment(with_bundle=bundle.is_file()),
    }
    settings.files = {name: text.encode() for name, text in texts.items()}
    if bundle.is_file():
        settings.files["certificates.crt"] = bundle.read_bytes()
    settings.accept("BERTH_DEBIAN_MIRROR", environment.get("BERTH_DEBIAN_MIRROR", ""))
    _refuse_netrc(settings, Path(environment.get("NETRC") or home / ".netrc"))
    if settings.refused:
        found = "\n".join(f"  {each}" for each in settings.refused)
        raise LabError(
            f"sessions could read these credentials of the machine's client settings:\n{found}", hint=_REMEDY
        )
    return settings


def connect_sessions(lab: Lab, settings: ClientSettings) -> None:
    """Let sessions that start from now on reach the package registries with these settings."""
    start_proxy(lab.place, settings.routes())
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in sorted(settings.files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    # The directory stays: sessions that run have it mounted, and see the new files.
    script = f"umask 022; install -d {ON_NODE}; find {ON_NODE} -mindepth 1 -delete; tar -x --no-same-owner -C {ON_NODE}"
    for node in COMPUTE:
        done = lab.run(["sh", "-euc", script], node=node, stdin=archive.getvalue())
        if done.returncode != 0:
            raise LabError(f"{node} does not take the client settings: {done.stderr.decode(errors='replace')}")


def disconnect_sessions(lab: Lab) -> None:
    """Leave sessions without a way to the registries."""
    stop_proxy(lab.place)
    for node in COMPUTE:
        lab.sh(f"rm -rf {ON_NODE}", node=node)


def _read_proxies(settings: ClientSettings, environment: Mapping[str, str], apt: str) -> None:
    """Take the machine's own proxies as the next ones on the way."""
    settings.no_proxy = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    for scheme in ("http", "https"):
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            _add_upstream(settings, scheme, name, environment.get(name, ""))
        for found in re.findall(rf'^Acquire::{scheme}::Proxy "(http[^"]+)";$', apt, re.MULTILINE):
            _add_upstream(settings, scheme, f"apt: Acquire::{scheme}::Proxy", found)


def _add_upstream(settings: ClientSettings, scheme: str, origin: str, value: str) -> None:
    """Use a proxy for a scheme that has none yet. LabError for a proxy of another kind than HTTP."""
    value = value if "://" in value or not value else f"http://{value}"
    if not value or not settings.accept(origin, value):
        return
    try:
        valid = urlsplit(value).scheme == "http" and urlsplit(value).hostname and urlsplit(value).port != 0
    except ValueError:
        valid = False
    if not valid:
        raise LabError(f"{origin}: sessions can only use a proxy of the form http://HOST:PORT", hint=_REMEDY)
    settings.upstream.setdefault(scheme, value)


def _read_apt(settings: ClientSettings, apt: str, *, with_bundle: bool) -> str:
    """Return the settings of downloads. The proxy is in the environment, and takes one request at a time."""
    kept = [line for line in apt.splitlines() if line and "proxy" not in line.lower() and settings.accept("apt", line)]
    trust = [f'Acquire::https::CaInfo "{IN_SESSION}/certificates.crt";'] if with_bundle else []
    return "\n".join([*kept, 'Acquire::http::Pipeline-Depth "0";', *trust, ""])


def _read_pip(settings: ClientSettings, environment: Mapping[str, str], root: Path, home: Path) -> str:
    """Return pip's configuration with the settings that hold in a session too: no paths of the machine."""
    found: dict[str, tuple[str, str]] = {}
    for file in host_settings.pip_files(environment, root, home):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(_text(file))
        except configparser.Error:
            raise LabError(f"{file} is not a configuration of pip", hint="correct it; `pip config debug`") from None
        for section in ("global", "install"):
            for key, value in parser.items(section) if parser.has_section(section) else ():
                found[key.replace("_", "-")] = (str(file), value)
    for key in (*PIP_KEYS, "proxy"):
        name = f"PIP_{key.upper().replace('-', '_')}"
        if environment.get(name):
            found[key] = (name, environment[name])
    lines = ["[global]", "disable-pip-version-check = true"]
    for key, (origin, value) in found.items():
        if key == "proxy":
            _add_upstream(settings, "https", f"{origin}: {key}", value)
        elif settings.accept(f"{origin}: {key}", value) and key in PIP_KEYS:
            words = [word for word in value.split() if "://" not in word or word.startswith("http")]
            lines += [f"{key} = {' '.join(words)}"] if words else []
    return "\n".join([*lines, ""])


def _read_npm(settings: ClientSettings, environment: Mapping[str, str], root: Path, home: Path) -> str:
    """Return npm's configuration: registries and the settings of downloads. Tokens and passwords are refused."""
    system = environment.get("NPM_CONFIG_GLOBALCONFIG")
    user = environment.get("NPM_CONFIG_USERCONFIG")
    files = [root / "usr/etc/npmrc", root / "etc/npmrc", *([Path(system)] if system else [])]
    found: dict[str, tuple[str, str]] = {}
    for file in [*files, Path(user) if user else home / ".npmrc"]:
        for key, value in _npm_lines(_text(file)):
            found[key] = (str(file), re.sub(r"\$\{(\w+)\}", lambda name: environment.get(name[1], ""), value))
    for name, value in environment.items():
        if name.lower().startswith("npm_config_") and name.lower()[11:] == "registry":
            found["registry"] = (name, value)
    kept = []
    for key, (origin, value) in found.items():
        if _NPM_SECRET.fullmatch(key):
            settings.refused.append(f"{origin}: {key.rpartition(':')[2]}")
        elif key in {"proxy", "https-proxy"}:
            _add_upstream(settings, "https", f"{origin}: {key}", value)
        elif settings.accept(f"{origin}: {key}", value) and _NPM_KEY.fullmatch(key):
            kept.append(f"{key}={value}")
    return "\n".join([*kept, "update-notifier=false", ""])


def _npm_lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.strip().startswith(("#", ";")):
            yield key.strip(), value.strip().strip("\"'")


def _refuse_netrc(settings: ClientSettings, file: Path) -> None:
    """Refuse a netrc that has a login for a host of the settings: the registry would need it in the session too."""
    hosts = {urlsplit(url).hostname for url in settings.urls}
    for host in re.findall(r"\bmachine\s+(\S+)", _text(file)):
        if host in hosts:
            settings.refused.append(f"{file}: the login for {host}")


def _text(file: Path) -> str:
    """Return the text of a file, empty if there is none. LabError if it is too large or cannot be read."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise LabError(f"{file} cannot be read: {error.strerror}", hint=_REMEDY) from None
    if len(content) > MAX_FILE_BYTES:
        raise LabError(f"{file} is larger than {MAX_FILE_BYTES} bytes", hint=_REMEDY)
    return content.decode(errors="replace")


def _session_environment(*, with_bundle: bool) -> str:
    """Return the variables of every login."""
    bundle = f"{IN_SESSION}/certificates.crt"
    names = (
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "PIP_CERT",
        "GIT_SSL_CAINFO",
        "NODE_EXTRA_CA_CERTS",
    )
    proxies = {name: PROXY_URL for each in ("http_proxy", "https_proxy") for name in (each, each.upper())}
    local = ",".join(("localhost", "127.0.0.1", "::1", *NODES))
    variables = {
        **proxies,
        "no_proxy": local,
        "NO_PROXY": local,
        "APT_CONFIG": f"{IN_SESSION}/apt.conf",
        "NPM_CONFIG_GLOBALCONFIG": f"{IN_SESSION}/npmrc",
        "XDG_CONFIG_DIRS": f"{IN_SESSION}:/etc/xdg",
        **(dict.fromkeys(names, bundle) if with_bundle else {}),
    }
    return "".join(f"{name}={value}\n" for name, value in variables.items())
