"""Settings of logins by OpenID Connect: every fault is reported, in words and at its setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from broker.config.settings import known_settings, load_config
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.config.settings import Config

VALID = {"issuer": "https://login.example.org/realms/hpc", "client_id": "berth", "accounts_file": "/etc/berth/accounts"}
BY_CLAIM = {"accounts_file": None, "claim": "preferred_username", "claim_is_unique_and_immutable": True}


def load(directory: Path, oidc: dict[str, Any], url: str | None = "https://apps.example.org") -> Config:
    file = directory / "config.yaml"
    file.write_text(
        yaml.safe_dump({"mode": "site", "storage": {"root": "/s/{user}"}, "web": {"url": url, "oidc": oidc}})
    )
    return load_config(file)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        BY_CLAIM,
        BY_CLAIM | {"claim": "https://example.org/claims/uid", "claim_suffix": "@example.org"},
        {"issuer": "https://login.example.org:8443/"},
        {"scopes": ["openid", "profile", "email"], "algorithms": ["ES256", "Ed25519"]},
    ],
)
def test_valid_settings(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert load(tmp_path, VALID | changed).web.oidc.client_id == "berth"


def test_default_is_no_provider(tmp_path: Path) -> None:
    assert load(tmp_path, {}).web.oidc.issuer is None
    assert load(tmp_path, {}, url=None).web.oidc.issuer is None


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"issuer": "http://login.example.org"}, "web.oidc.issuer: must begin with https://"),
        ({"issuer": "login.example.org"}, "web.oidc.issuer: must be an address"),
        ({"issuer": "https://a:b@login.example.org"}, "web.oidc.issuer: must be an address"),
        ({"issuer": "https://login.example.org?x"}, "web.oidc.issuer: must have no `?`"),
        ({"issuer": "https://login.example.org#x"}, "web.oidc.issuer: must be an address"),
        ({"issuer": "http://127.0.0.1:9000"}, "web.oidc: web.oidc.issuer must begin with https://, as web.url does"),
        ({"client_id": ""}, "web.oidc.client_id: is needed"),
        ({"client_secret_file": "secret"}, "web.oidc.client_secret_file: must be an absolute path"),
        ({"scopes": ["profile"]}, "web.oidc.scopes: must contain openid"),
        ({"algorithms": ["HS256"]}, "web.oidc.algorithms.0: "),
        ({"algorithms": ["none"]}, "web.oidc.algorithms.0: "),
        ({"algorithms": []}, "web.oidc.algorithms: "),
        ({"accounts_file": None}, "a rule for accounts is missing"),
        ({"claim": "email"}, "web.oidc.claim: cannot be combined with web.oidc.accounts_file"),
        (BY_CLAIM | {"claim_is_unique_and_immutable": False}, "web.oidc.claim_is_unique_and_immutable: must be true"),
        ({"claim_suffix": "@example.org"}, "web.oidc.claim_suffix: needs web.oidc.claim"),
        ({"timeout": 0}, "web.oidc.timeout: "),
        ({"name": ""}, "web.oidc.name: "),
        ({"isuer": "x"}, "web.oidc.isuer: "),
    ],
)
def test_fault_is_named(tmp_path: Path, changed: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        load(tmp_path, VALID | changed)
    assert (
        f": {fault}" in refused.value.message or f"  {fault}" in refused.value.message or fault in refused.value.message
    )
    assert "faults" not in refused.value.message


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    faulty = {"issuer": "https://login.example.org", "scopes": ["email"], "timeout": 99, "isuer": "", "ca_file": "ca"}
    with pytest.raises(InvalidInputError) as refused:
        load(tmp_path, faulty)
    for setting in ("client_id", "scopes", "timeout", "isuer", "ca_file", "claim_is_unique_and_immutable"):
        assert refused.value.message.count(f"\n  web.oidc.{setting}: ") == 1
    assert "did you mean issuer?" in refused.value.hint


def test_provider_needs_web_access(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"web\.oidc: is for sites with web access: set web\.url"):
        load(tmp_path, VALID, url=None)


def test_provider_on_this_machine_is_for_sites_on_it(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "[::1]", "localhost"):
        oidc = VALID | {"issuer": f"http://{host}:9000"}
        assert load(tmp_path, oidc, url="http://berth.localhost:8080").web.oidc.issuer


def test_keys_of_the_section_are_known_for_hints() -> None:
    assert "client_id" in known_settings("web.oidc")
    assert known_settings("web.oidc.issuer") == known_settings("web.nothing.issuer") == []
