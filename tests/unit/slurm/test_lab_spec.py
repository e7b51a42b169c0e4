from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

from slurm.lab.errors import LabError
from slurm.lab.spec import LabBind, LabSpec, PublishedPort

if TYPE_CHECKING:
    from pathlib import Path


def test_spec_survives_json_and_its_fingerprint_tells_differences(tmp_path: Path) -> None:
    spec = LabSpec(
        operators=("service",), layers=(str(tmp_path),), binds=(LabBind(str(tmp_path), "/x", read_only=True),)
    )
    assert LabSpec.from_json(json.loads(json.dumps(asdict(spec)))) == spec
    others = [
        replace(spec, users=("dave",)),
        replace(spec, operators=()),
        replace(spec, layers=()),
        replace(spec, binds=()),
        replace(spec, suite="trixie"),
    ]
    assert len({each.fingerprint() for each in (spec, *others)}) == 6


def test_accounts_have_fixed_ids_and_homes() -> None:
    accounts = {each.name: each for each in LabSpec(operators=("service",)).accounts}
    assert (accounts["alice"].uid, accounts["carol"].uid, accounts["service"].uid) == (5001, 5003, 901)
    assert accounts["bob"].home == "/shared/home/bob"
    assert accounts["service"].shell == "/usr/sbin/nologin"


def test_a_debian_that_nodes_cannot_have_is_refused_with_those_they_can() -> None:
    with pytest.raises(LabError) as refused:
        LabSpec(suite="bookworm")
    assert refused.value.hint == "there are sid, trixie"


@pytest.mark.parametrize("name", ["", "Lab", "1lab", "a.b", "a/b", "x" * 21])
def test_names_that_would_not_do_for_the_kernel_are_refused(name: str) -> None:
    with pytest.raises(LabError):
        LabSpec(name=name)


def test_user_names_and_layers_are_checked(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no user name"):
        LabSpec(users=("alice:x",))
    with pytest.raises(LabError, match="no such directory"):
        LabSpec(layers=(str(tmp_path / "missing"),))
    (tmp_path / "a:b").mkdir()
    with pytest.raises(LabError, match="overlayfs"):
        LabSpec(layers=(str(tmp_path / "a:b"),))


def test_publish_reads_what_it_writes() -> None:
    text = "127.0.0.1:2222:login:22"
    assert str(PublishedPort.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["2222:login:22", "0.0.0.0:1:login:22", "127.0.0.1:x:login:22", "127.0.0.1:1:c9:22", ""]
)
def test_publish_refuses_other_forms(text: str) -> None:
    with pytest.raises(LabError):
        PublishedPort.parse(text)


def test_bind_reads_its_forms_and_refuses_others(tmp_path: Path) -> None:
    assert LabBind.parse(f"{tmp_path}:/x") == LabBind(str(tmp_path), "/x")
    assert LabBind.parse(f"{tmp_path}:/x:ro") == LabBind(str(tmp_path), "/x", read_only=True)
    for text in (f"{tmp_path}", f"{tmp_path}:x", f"{tmp_path}:/x:no", f"{tmp_path}/missing:/x"):
        with pytest.raises(LabError, match="--bind"):
            LabBind.parse(text)
