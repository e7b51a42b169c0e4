"""The settings of signers, and their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.config.settings import load_config
from broker.config.signature_policy import signature_policy, signer_faults
from broker.errors import InvalidInputError
from profiles.image.catalog import OWN, SITE
from tests.fakes.signing import key_file, public_pem, signing_key

if TYPE_CHECKING:
    from pathlib import Path

    from broker.config.settings import Config

KEY = signing_key()
INLINE = "|\n" + "".join(f"        {line}\n" for line in public_pem(KEY).splitlines())
CONFIG = """
mode: {mode}
profiles:
  require_signature: true
  signers:
    - name: profile-team
      public_key: {key}
      valid_from: 2026-01-01
      valid_until: "2026-12-31"
      profiles: [base, triton-*]
      stores: [site, /profiles]
"""


def loaded(path: Path, text: str) -> Config:
    file = path / "config.yaml"
    file.write_text(text)
    return load_config(file)


def test_signer_with_a_key_in_the_file_or_beside_it(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(public_pem(KEY))
    for key in (INLINE, str(tmp_path / "key.pem")):
        config = loaded(tmp_path, CONFIG.format(mode="site", key=key))
        policy = signature_policy(config)
        (signer,) = policy.signers
        assert (signer.name, signer.key.key_id) == ("profile-team", KEY.public.key_id)
        assert signer.profiles == ("base", "triton-*")
        assert signer.stores == ("site", "/profiles")
        assert (signer.valid_from, signer.valid_until) == (1767225600.0, 1798761600.0)  # date -u -d 2027-01-01 +%s
        assert (policy.is_required(SITE), policy.is_required(OWN)) == (True, False)
        assert signer_faults(config) == []


def test_personal_mode_requires_signatures_of_all_stores(tmp_path: Path) -> None:
    policy = signature_policy(loaded(tmp_path, CONFIG.format(mode="personal", key=INLINE)))
    assert policy.is_required(OWN)


def test_nothing_is_required_by_default(tmp_path: Path) -> None:
    assert signature_policy(loaded(tmp_path, "mode: site\n")).is_empty


def test_last_day_of_the_calendar_is_a_limit(tmp_path: Path) -> None:
    text = CONFIG.format(mode="site", key=INLINE).replace('"2026-12-31"', "9999-12-31")
    assert signature_policy(loaded(tmp_path, text)).signers[0].valid_until > 2e11


@pytest.mark.parametrize(
    ("before", "after", "setting"),
    [
        ("2026-01-01", "2027-01-01", "valid_until: is before valid_from"),
        ("2026-01-01", "2026-13-01", "is not valid YAML"),
        ("2026-01-01", "2026-01-01T10:00:00", "valid_from: must be a date"),
        ("2026-01-01", "1767225600", "valid_from: must be a date"),
        ("2026-01-01", "true", "valid_from: must not be"),
        ("2026-01-01", "'２０２６-01-01'", "valid_from: must be a date"),  # noqa: RUF001 - digits, but not ASCII
        ("[base, triton-*]", "[]", "profiles: "),
        ("[base, triton-*]", "['.*']", "profiles.0: "),
        ("[base, triton-*]", "['b[a]se']", "profiles.0: "),
        ("[base, triton-*]", "['*/base']", "profiles.0: "),
        ("[base, triton-*]", "base", "profiles: "),
        ("[site, /profiles]", "[other]", "stores.0: must be `site`, `own`"),
        ("[site, /profiles]", "[profiles/here]", "stores.0: must be `site`, `own`"),
        ("profile-team", '"a\\nb"', "name: "),
        ("profile-team", "''", "name: "),
        ("stores: [site", "store: [site", "store: "),
        ("require_signature: true", "require_signature: maybe", "require_signature: "),
        ("{key}", "key.pem", "public_key: must be a key in PEM form"),
        ("{key}", "[]", "public_key: "),
    ],
)
def test_wrong_setting_is_named(tmp_path: Path, before: str, after: str, setting: str) -> None:
    assert before in CONFIG
    text = CONFIG.replace(before, after, 1).replace("{key}", INLINE).format(mode="site")
    with pytest.raises(InvalidInputError, match=setting.replace("[", r"\[")) as caught:
        loaded(tmp_path, text)
    assert "Traceback" not in caught.value.message


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("/no/such/key.pem", "the key of profile-team: cannot read the key /no/such/key.pem"),
        ("'-----BEGIN PUBLIC KEY-----'", "the key of profile-team: public_key is no public key"),
        ("'-----BEGIN PRIVATE KEY-----'", "only the public key belongs there"),
        ("/dev/zero", "is a device"),
    ],
)
def test_wrong_key_is_reported_with_its_signer(tmp_path: Path, key: str, why: str) -> None:
    config = loaded(tmp_path, CONFIG.format(mode="site", key=key))
    assert [why in fault.message for fault in signer_faults(config)] == [True]
    with pytest.raises(InvalidInputError, match=r"profiles\.signers"):
        signature_policy(config)


def test_private_key_file_is_refused_as_a_public_key(tmp_path: Path) -> None:
    path = key_file(tmp_path / "key", KEY)
    assert "only the public key" in signer_faults(loaded(tmp_path, CONFIG.format(mode="site", key=path)))[0].message


def test_names_and_keys_are_unique(tmp_path: Path) -> None:
    one = CONFIG.format(mode="site", key=INLINE)
    again = one[one.index("    - name") :]
    with pytest.raises(InvalidInputError, match="two signers are called profile-team"):
        loaded(tmp_path, one + again)
    config = loaded(tmp_path, one + again.replace("profile-team", "other"))
    assert "profile-team and other have the same key" in signer_faults(config)[0].message
