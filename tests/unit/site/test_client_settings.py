"""The client settings that sessions of the demonstration get from the machine, with files in place of the machine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurm.lab.errors import LabError
from tests.site.client_settings import ClientSettings, read_client_settings

if TYPE_CHECKING:
    from pathlib import Path


def read(root: Path, files: dict[str, str] | None = None, **environment: str) -> ClientSettings:
    """Read the settings of a machine with these files and variables."""
    for name, text in (files or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return read_client_settings({"HOME": "/root", **environment}, root)


def test_registries_of_all_clients_are_taken(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        {
            "etc/xdg/pip/pip.conf": "[global]\nextra-index-url = https://more.invalid/simple\n",
            "etc/pip.conf": "[global]\nindex-url = https://site.invalid/simple\nfind-links = /opt/wheels\n",
            "root/.config/pip/pip.conf": "[install]\nindex-url = http://own.invalid:8080/simple\n",
            "root/.npmrc": "registry=https://npm.invalid/\n@a:registry = https://scope.invalid/\naudit=false\n",
            "etc/apt/apt.conf": 'Acquire::Retries "3";\n',
        },
    )
    pip, npm = settings.files["pip/pip.conf"].decode(), settings.files["npmrc"].decode()
    assert "index-url = http://own.invalid:8080/simple\n" in pip
    assert "extra-index-url = https://more.invalid/simple\n" in pip
    assert "/opt/wheels" not in pip
    assert npm.splitlines() == [
        "registry=https://npm.invalid/",
        "@a:registry=https://scope.invalid/",
        "update-notifier=false",
    ]
    assert 'Acquire::Retries "3";' in settings.files["apt.conf"].decode()
    assert "own.invalid:8080" in settings.routes().named
    assert "npm.invalid:443" in settings.routes().named


def test_sessions_are_led_to_the_labs_proxy_and_that_to_the_machines(tmp_path: Path) -> None:
    settings = read(tmp_path, https_proxy="http://proxy.invalid:3128", HTTP_PROXY="proxy.invalid:80", no_proxy="near")
    assert "https_proxy=http://10.77.0.1:3128\n" in settings.files["environment"].decode()
    assert "invalid" not in settings.files["environment"].decode()
    assert settings.routes().upstream == {
        "https": "http://proxy.invalid:3128",
        "http": "http://proxy.invalid:80",
    }
    assert settings.routes().no_proxy == "near"


@pytest.mark.parametrize(
    ("files", "origin"),
    [
        ({"etc/apt/apt.conf": 'Acquire::http::Proxy "http://cache.invalid:3142";\n'}, "http"),
        ({"etc/pip.conf": "[global]\nproxy = cache.invalid:3142\n"}, "https"),
        ({"root/.npmrc": "https-proxy=http://cache.invalid:3142\n"}, "https"),
    ],
)
def test_a_proxy_of_one_client_is_used_too(tmp_path: Path, files: dict[str, str], origin: str) -> None:
    settings = read(tmp_path, files)
    assert settings.routes().upstream == {origin: "http://cache.invalid:3142"}
    assert not any(b"cache.invalid" in content for content in settings.files.values())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("etc/pip.conf", "[global]\nextra-index-url = https://u:SECRET@a.invalid/simple\n", "extra-index-url: a URL"),
        ("etc/pip.conf", "[global]\nproxy = http://u:SECRET@a.invalid:1\n", "proxy: a URL with user:password@"),
        ("root/.npmrc", "//a.invalid/:_authToken=SECRET\n", "_authToken"),
        ("root/.npmrc", "_auth = SECRET\n", "_auth"),
        ("root/.npmrc", "//a.invalid/:_password=SECRET\n", "_password"),
        ("root/.npmrc", "registry=https://u:SECRET@a.invalid/\n", "registry: a URL with user:password@"),
        ("etc/apt/apt.conf", 'Acquire::http::Proxy "http://u:SECRET@a.invalid";\n', "Acquire::http::Proxy: a URL"),
    ],
)
def test_settings_with_credentials_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(LabError) as caught:
        read(tmp_path, {name: text})
    assert message in caught.value.message
    assert "SECRET" not in caught.value.render()
    assert "OFFLINE=1" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["https_proxy", "HTTP_PROXY", "PIP_INDEX_URL", "npm_config_registry", "BERTH_DEBIAN_MIRROR"]
)
def test_variables_with_credentials_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LabError, match=name) as caught:
        read(tmp_path, {}, **{name: "http://u:SECRET@a.invalid:1/"})
    assert "SECRET" not in caught.value.render()


def test_a_login_in_netrc_is_refused_only_for_a_registry_of_the_settings(tmp_path: Path) -> None:
    netrc = {"root/.netrc": "machine a.invalid login u password SECRET\n"}
    read(tmp_path, netrc)
    with pytest.raises(LabError, match=r"\.netrc: the login for a\.invalid") as caught:
        read(tmp_path, {"etc/pip.conf": "[global]\nindex-url = https://a.invalid/simple\n"})
    assert "SECRET" not in caught.value.render()


def test_all_refusals_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        read(tmp_path, {"root/.npmrc": "_auth=SECRET\n"}, https_proxy="http://u:SECRET@a.invalid")
    assert "_auth" in caught.value.message
    assert "https_proxy" in caught.value.message


@pytest.mark.parametrize("proxy", ["socks5://a.invalid:1", "http://a.invalid:port", "https://a.invalid"])
def test_a_proxy_that_cannot_be_used_is_refused(tmp_path: Path, proxy: str) -> None:
    with pytest.raises(LabError, match="http://HOST:PORT"):
        read(tmp_path, https_proxy=proxy)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="larger than"):
        read(tmp_path, {"root/.npmrc": "#" * (2 << 20)})


def test_the_certificates_that_the_machine_trusts_are_taken(tmp_path: Path) -> None:
    settings = read(tmp_path, {"bundle.crt": "certificates"}, SSL_CERT_FILE=str(tmp_path / "bundle.crt"))
    assert settings.files["certificates.crt"] == b"certificates"
    assert "SSL_CERT_FILE=/run/berth/client/certificates.crt\n" in settings.files["environment"].decode()
    assert "certificates.crt" not in read(tmp_path).files["environment"].decode()
