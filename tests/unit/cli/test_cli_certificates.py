"""`berth login`, `logout` and `ca`, against a controller that plays a script; and `berth ssh` with a certificate."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from broker import errors
from broker.cli import login_key
from broker.client.client import Client
from broker.ssh.certificates import CertificateAuthority
from tests.fakes import openssh
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import CA_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.controller import ScriptedController


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    """A controller of a site that lets people in by certificates."""
    with command_line(monkeypatch, tmp_path) as running:
        running.site = running.site.model_copy(update={"login_with": "certificates", "user": "alice"})
        yield running


def described(certificate: Path) -> str:
    return subprocess.run(["ssh-keygen", "-L", "-f", certificate], check=True, capture_output=True, text=True).stdout


def test_login_puts_a_certificate_where_ssh_looks_for_it(controller: ScriptedController) -> None:
    result = run("login", "--hours", "2")
    assert result.exit_code == 0, result.output
    assert "is valid until" in result.stderr
    certificate = login_key.login_key_path().with_name("id_ed25519-cert.pub")
    assert "alice" in described(certificate)
    assert controller.keys == {}, "no key is added"
    assert run("login", "--list").stdout.count("SHA256:") == 1


def test_a_laptops_key_is_certified_on_standard_output(controller: ScriptedController, tmp_path: Path) -> None:
    del controller
    key = openssh.make_key(tmp_path / "id")
    result = run("login", "--public-key", f"{key}.pub")
    (tmp_path / "id-cert.pub").write_text(result.stdout)
    assert "user certificate" in described(tmp_path / "id-cert.pub")
    assert json.loads(run("login", "--public-key", f"{key}.pub", "--json").stdout)["certificate"].startswith(
        "ssh-ed25519-cert"
    )
    refused = run("login", "--public-key", str(key))
    assert refused.exit_code == 2
    assert "private key" in refused.stderr


def test_logout_revokes_and_forgets(controller: ScriptedController) -> None:
    run("login")
    certificate = login_key.login_key_path().with_name("id_ed25519-cert.pub")
    assert certificate.exists()
    result = run("logout")
    assert result.stdout.startswith("SHA256:")
    assert "1 certificate revoked" in result.stderr
    assert not certificate.exists()
    assert controller.certificates == []
    assert "You have no certificates" in run("login", "--list").stderr
    assert "0 certificates revoked" in run("logout").stderr


def test_a_site_of_keys_says_so(controller: ScriptedController) -> None:
    controller.site = controller.site.model_copy(update={"login_with": "keys"})
    result = run("login")
    assert result.exit_code != 0
    assert "accepts keys" in result.stderr


def test_berth_ssh_renews_its_certificate_in_time(controller: ScriptedController) -> None:
    client = Client(controller.socket)
    key = login_key.ensure_certificate(client, "certificates")
    certificate = key.with_name("id_ed25519-cert.pub")
    first = certificate.read_bytes()
    login_key.ensure_certificate(client, "certificates")
    assert certificate.read_bytes() == first
    soon = time.time() + login_key.RENEWAL_MARGIN_S - 1
    os.utime(certificate, (soon, soon))
    login_key.ensure_certificate(client, "certificates")
    assert certificate.stat().st_mtime > time.time() + 3600
    assert controller.keys == {}


def test_berth_ssh_gets_another_certificate_when_its_authority_is_retired(controller: ScriptedController) -> None:
    client = Client(controller.socket)
    certificate = login_key.ensure_certificate(client, "certificates").with_name("id_ed25519-cert.pub")
    first = certificate.read_bytes()
    controller.user_authority = CertificateAuthority.load_or_create(controller.directory / "next" / "key")
    login_key.ensure_certificate(client, "certificates")
    second = certificate.read_bytes()
    assert second != first
    login_key.ensure_certificate(client, "certificates")
    assert certificate.read_bytes() == second
    times = certificate.stat()
    certificate.write_text("ssh-ed25519-cert-v01@openssh.com AAAA")
    os.utime(certificate, (times.st_mtime, times.st_mtime))
    login_key.ensure_certificate(client, "certificates")
    assert len(certificate.read_bytes()) == len(second), "one that was cut off is replaced"


def test_the_authorities_are_listed_rotated_and_retired(controller: ScriptedController) -> None:
    assert run("ca", "list").stdout.splitlines()[1].split()[:3] == ["host", "SHA256:ca", "signing"]
    assert "SHA256:ca is signing" in run("ca", "rotate", "host").stderr
    assert ("POST", "/v1/ca/host/rotate", {"now": False}) in controller.asked
    controller.answers["POST /v1/ca/user/retire"] = CA_KEY
    assert "no longer trusted" in run("ca", "retire", "user", "SHA256:ca", "--now").stderr
    assert ("POST", "/v1/ca/user/retire", {"fingerprint": "SHA256:ca", "now": True}) in controller.asked
    controller.failures["POST /v1/ca/host/rotate"] = errors.RefusedError(
        "only root and the service account may do this"
    )
    assert run("ca", "rotate", "host").exit_code == errors.RefusedError.exit_code
    assert run("ca", "rotate", "other").exit_code == 2
