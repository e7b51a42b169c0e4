"""The configuration is checked whole before anything starts, and what is wrong is said with its remedy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from broker.cli.commands.services import _gateway_settings
from broker.config.file import Mode
from broker.config.settings import Config, known_settings, load_config
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator


def written(directory: Path, text: str | bytes) -> Path:
    file = directory / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_named_file_is_a_sites_unless_it_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/home/alice/state")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    site = load_config(written(tmp_path, "storage: {root: '/shared/{user}'}"))
    assert (site.mode, site.state_dir, site.gateway.enabled) == (Mode.SITE, Path("/var/lib/berth"), True)
    assert site.registry_url == "sqlite:////var/lib/berth/registry.db"
    own = load_config(written(tmp_path, "mode: personal"))
    assert (own.mode, own.gateway.enabled) == (Mode.PERSONAL, False)
    assert (own.state_dir, own.api_socket) == (Path("/home/alice/state/berth"), tmp_path / "berth/api.sock")


def test_the_environment_names_a_file_that_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_CONFIG", str(tmp_path / "none.yaml"))
    with pytest.raises(InvalidInputError, match=r"none\.yaml"):
        load_config()
    monkeypatch.setenv("BERTH_CONFIG", str(written(tmp_path, "ssh: {domain: lab}")))
    assert load_config().ssh.domain == "lab"


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("storag: {}", "storag", "storage"),
        ("ssh: {domian: x}", "ssh.domian", "domain"),
        ("ssh: {domain: Not Valid}", "ssh.domain", "docs/reference/config.md"),
        ("slurm: {submit_timeout: 0}", "slurm.submit_timeout", ""),
        ("slurm: {submit_grace: soon}", "slurm.submit_grace", ""),
        ("storage: {root: /shared}", "storage.root", ""),
        ("storage: {root: '~alice/{user}'}", "storage.root", ""),
        ("storage: {binds: [data]}", "data", ""),
        ("storage: {tmp_directories: []}", "at least 1", ""),
        ("storage: {tmp_directories: [tmp]}", "absolute path", ""),
        ("storage: {tmp_directories: ['/a,/b']}", "absolute path", ""),
        ("storage: {tmp_directories: ['/a/../b']}", "absolute path", ""),
        ("storage: {tmp_directories: ['/a/{home}']}", "absolute path", ""),
        ("profiles: {registries: [{host: 'https://r.example'}]}", "HOST or HOST:PORT", ""),
        ("profiles: {registries: [{host: r.example/team}]}", "HOST or HOST:PORT", ""),
        ("profiles: {registries: [{host: r.example, ca: ca.pem}]}", "absolute path", ""),
        ("profiles: {registries: [{host: r.example}, {host: R.example}]}", "r.example has two entries", ""),
        ("state_dir: relative", "absolute", ""),
        ("gateway: {port: 70000}", "gateway.port", ""),
        ("mode: both", "mode", ""),
        ("- a list", "name: value", ""),
        ("a: [", "YAML", ""),
        (b"\xff\xfe\x00", "YAML", ""),
        (r'a: "\UFFFFFFFF"', "YAML", ""),
        (r'a: "\U00110000"', "YAML", ""),
        ("a: 2026-13-01", "YAML", ""),
        ("1: 2", "1", ""),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str | bytes, words: str, hint: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InvalidInputError) as failure:
        load_config(file)
    assert str(file) in failure.value.message
    assert words in failure.value.message
    assert hint in failure.value.hint
    assert "Value error" not in failure.value.message


@pytest.mark.parametrize("host", ["gw.berth", "GW.Berth", "alice.dev.berth"])
def test_a_gateway_that_a_session_could_pass_for_is_refused(tmp_path: Path, host: str) -> None:
    for text in (f"gateway: {{host: {host}}}", f"ssh: {{login_host: {host}}}"):
        with pytest.raises(InvalidInputError, match=r"gateway\.host") as failure:
            load_config(written(tmp_path, text))
        assert ": :" not in failure.value.message


@pytest.mark.parametrize(
    "text",
    [
        "gateway: {host: gw.example}",
        "gateway: {host: berth}",
        "gateway: {host: notberth}",
        "gateway: {host: gw.berth, enabled: false}",
        "gateway: {host: gw.berth}\nssh: {domain: lab}",
    ],
)
def test_other_names_of_the_gateway_are_fine(tmp_path: Path, text: str) -> None:
    assert load_config(written(tmp_path, text)).gateway.host


def test_all_faults_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "mode: site\nstorage: {root: '/shared/{user}', flatten_at: 1}\nssh: {connect_wat: 5}\nrestart_wait: -1\n"
    )
    with pytest.raises(InvalidInputError) as refused:
        load_config(file)
    assert str(refused.value.message).splitlines()[0].endswith(": 3 faults")
    for setting in ("storage.flatten_at", "ssh.connect_wat", "restart_wait"):
        assert refused.value.message.count(f"\n  {setting}: ") == 1
    assert "did you mean connect_wait?" in str(refused.value.hint)


@pytest.mark.parametrize("value", ["true", "no", ".inf", ".nan"])
def test_a_number_is_a_finite_number_in_every_section(value: str) -> None:
    """A class of fault: Python takes `true` for 1."""

    def numbers(model: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str]]:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from numbers(field.annotation)
            elif {field.annotation, *get_args(field.annotation)} & {int, float}:
                yield model, name

    found = [*numbers(Config)]
    assert len(found) > 20
    for model, name in found:
        with pytest.raises(ValidationError, match=name):
            model.model_validate({name: yaml.safe_load(value)})


def test_every_sections_keys_are_known_for_hints() -> None:
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            assert known_settings(name) == sorted(field.annotation.model_fields)
    assert known_settings("nothing") == []


def test_gateway_waits_for_sessions_as_long_as_the_site_says() -> None:
    config = Config.model_validate({"ssh": {"answer_timeout": 3.5}})
    assert _gateway_settings(config).answer_timeout == 3.5
    assert _gateway_settings(Config()).answer_timeout == 10.0
