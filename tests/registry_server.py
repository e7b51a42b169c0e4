"""A registry of the tests' own: docker-registry on a free port of 127.0.0.1, with TLS and a login if asked for."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER, PASSWORD = "alice", "open sesame"
HTPASSWD = "alice:$2b$04$VLJkFe5FRy4jX0dswDMmW.y4/GKHk6m9TEjoMX2mYx9or.rt.XoEK\n"
_LISTENS = re.compile(r"listening on 127\.0\.0\.1:([0-9]+)")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, and a certificate of its for `localhost`."""

    ca: Path
    certificate: Path
    key: Path


def make_authority(folder: Path, name: str) -> Authority:
    """Make an authority and a certificate with openssl(1)."""
    ca, ca_key, key = (folder / f"{name}{end}" for end in (".ca.pem", ".ca.key", ".key"))
    request, certificate, extensions = (folder / f"{name}{end}" for end in (".csr", ".pem", ".ext"))
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl("req", "-x509", *new, "-subj", f"/CN={name}", "-keyout", str(ca_key), "-out", str(ca), "-days", "2")
    _openssl("req", *new, "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(request))
    signing = ["-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", "2"]
    _openssl("x509", "-req", "-in", str(request), *signing, "-extfile", str(extensions), "-out", str(certificate))
    return Authority(ca, certificate, key)


@contextlib.contextmanager
def running_registry(folder: Path, *, authority: Authority | None = None, login: bool = False) -> Iterator[int]:
    """Run a registry with its data in `folder`; provides its port."""
    (folder / "htpasswd").write_text(HTPASSWD)
    http: dict[str, Any] = {"addr": "127.0.0.1:0"}
    if authority is not None:
        http["tls"] = {"certificate": str(authority.certificate), "key": str(authority.key)}
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": http,
        **({"auth": {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}} if login else {}),
    }
    (folder / "registry.yml").write_text(json.dumps(settings))
    log = folder / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "registry.yml")], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield _port(process, log)
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def write_login(file: Path, registry: str, password: str) -> None:
    """Write a file with a login, as podman does."""
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    file.write_text(json.dumps({"auths": {registry: {"auth": auth}}}))
    file.chmod(0o600)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end and process.poll() is None:
        if found := _LISTENS.search(log.read_text()):
            return int(found[1])
        time.sleep(0.02)
    raise AssertionError(f"the registry does not listen:\n{log.read_text()[-2000:]}")


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=DEADLINE_S)
