"""`berth profile sign`, `verify`, `show` and `build --sign-key` on the user's side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from profiles.build.result import BuildResult
from profiles.image.signature_file import SIGNATURE
from profiles.image.store import Store
from tests.fakes.command_line import run
from tests.fakes.core import publish
from tests.fakes.signing import key_file, public_pem, signed, signing_key

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.image.store import Image

KEY, OTHER_KEY = signing_key(1), signing_key(2)


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    """base@1 of a user in personal mode, who requires signatures of one key."""
    configure(tmp_path, monkeypatch, require_signature=True)
    return publish(Store(tmp_path / "store"))


def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    signers = [{"name": "team", "public_key": public_pem(KEY), "profiles": ["base", "mine"]}]
    profiles = {"stores": [str(tmp_path / "store")], "signers": signers} | values
    (tmp_path / "config.yaml").write_text(json.dumps({"mode": "personal", "profiles": profiles}))
    monkeypatch.setenv("BERTH_CONFIG", str(tmp_path / "config.yaml"))


def test_sign_verify_and_show(image: Image, tmp_path: Path) -> None:
    unsigned = run("profile", "verify", "base")
    assert (unsigned.exit_code, "base@1 is not signed" in unsigned.stderr) == (1, True)
    assert "hint: its publisher signs it: `berth profile sign base@1 --key" in unsigned.stderr
    path = key_file(tmp_path / "key", KEY)
    done = run("profile", "sign", "base", "--key", str(path))
    assert (done.exit_code, done.stderr) == (0, f"signed base@1 with the key {KEY.public.key_id} of team\n")
    verified = run("profile", "verify", "base@1")
    assert verified.exit_code == 0
    assert image.digest in verified.stderr
    assert "signed by team on 20" in verified.stderr
    answer = json.loads(run("profile", "verify", "base@1", "--json").stdout)["signature"]
    assert (answer["signer"], answer["key"], answer["problem"]) == ("team", KEY.public.key_id, None)
    assert json.loads(run("profile", "show", "base", "--json").stdout)["signature"] == answer
    again = json.loads(run("profile", "sign", "base", "--key", str(path), "--json").stdout)
    assert (again["signer"], again["digest"]) == ("team", image.digest)


def test_changed_images_fail_to_verify_each_with_its_sentence(image: Image) -> None:
    signed(image, KEY)
    image.path.write_bytes(b"SiF")
    flipped = run("profile", "verify", "base")
    image.path.write_bytes(b"SIF and an object")
    appended = run("profile", "verify", "base")
    image.path.write_bytes(b"SIF")
    signed(image, OTHER_KEY)
    foreign = run("profile", "verify", "base")
    assert [each.exit_code for each in (flipped, appended, foreign)] == [1, 1, 1]
    assert "its digest differs" in flipped.stderr
    assert "14 bytes more than team has signed" in appended.stderr
    assert "belongs to none of the signers here" in foreign.stderr


def test_changed_image_is_never_signed(image: Image, tmp_path: Path) -> None:
    image.path.write_bytes(b"SiF")
    done = run("profile", "sign", "base", "--key", str(key_file(tmp_path / "key", KEY)))
    assert (done.exit_code, "its digest differs" in done.stderr) == (1, True)
    assert not (image.directory / SIGNATURE).exists()


def test_key_that_does_not_count_signs_nothing_where_signatures_are_required(image: Image, tmp_path: Path) -> None:
    done = run("profile", "sign", "base", "--key", str(key_file(tmp_path / "key", OTHER_KEY)))
    assert (done.exit_code, "belongs to none of the signers" in done.stderr) == (1, True)
    assert not (image.directory / SIGNATURE).exists()


def test_key_that_does_not_count_is_noted_elsewhere(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, monkeypatch)
    done = run("profile", "sign", "base", "--key", str(key_file(tmp_path / "key", OTHER_KEY)))
    assert done.exit_code == 0
    assert "This key does not count for it here" in done.stderr
    assert (image.directory / SIGNATURE).exists()
    assert run("profile", "verify", "base").exit_code == 1
    configure(tmp_path, monkeypatch, signers=[])
    verified = run("profile", "verify", "base")
    assert (verified.exit_code, "belongs to none" in verified.stderr) == (0, True)


def test_unsigned_image_verifies_where_no_signature_is_required(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, monkeypatch)
    verified = run("profile", "verify", "base", "--json")
    assert (verified.exit_code, json.loads(verified.stdout)["signature"]) == (0, None)
    assert image.signature.text is None


def test_wrong_key_is_the_users_mistake(image: Image, tmp_path: Path) -> None:
    assert image.name == "base"
    for path in (tmp_path / "gone", tmp_path / "config.yaml"):
        done = run("profile", "sign", "base", "--key", str(path))
        assert done.exit_code == 2
        assert str(path) in done.stderr


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The key of each build, without the work."""
    keys: list[Any] = []

    def build(_: Path, *, store: Store, sign_key: Any = None, **__: Any) -> BuildResult:  # noqa: ANN401 - not looked at
        keys.append(sign_key)
        return BuildResult(publish(store, "mine"), built=True)

    monkeypatch.setattr("profiles.build.builder.build", build)
    return keys


def test_build_gets_the_key_and_warns_without_one(image: Image, tmp_path: Path, builds: list[Any]) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nversion: 1\nbase: profile:base@1\n")
    path = key_file(tmp_path / "key", KEY)
    run("profile", "build", str(tmp_path / "mine.yaml"), "--sign-key", str(path))
    assert [each.public.key_id for each in builds] == [KEY.public.key_id]
    Store(image.directory.parent.parent).delete("mine", "1")
    done = run("profile", "build", str(tmp_path / "mine.yaml"))
    assert (done.exit_code, builds[1]) == (0, None)
    assert "No session starts from mine@1 before it is signed: `berth profile sign mine@1 --key" in done.stderr


def test_key_of_a_build_that_builds_nothing_is_not_dropped_silently(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish(Store(image.directory.parent.parent), "mine")
    monkeypatch.setattr("profiles.build.published.unchanged_image", lambda *_, **__: published)
    (tmp_path / "mine.yaml").write_text("name: mine\nversion: 1\nbase: profile:base@1\n")
    path = key_file(tmp_path / "key", KEY)
    done = run("profile", "build", str(tmp_path / "mine.yaml"), "--sign-key", str(path))
    sign = f"`berth profile sign mine@1 --key {path}`"
    assert (done.exit_code, f"Nothing was signed either: {sign}" in done.stderr) == (0, True), done.stderr


def test_build_with_a_key_that_does_not_count_does_not_begin(image: Image, tmp_path: Path, builds: list[Any]) -> None:
    assert image.name == "base"
    (tmp_path / "other.yaml").write_text("name: other\nversion: 1\nbase: profile:base@1\n")
    done = run("profile", "build", str(tmp_path / "other.yaml"), "--sign-key", str(key_file(tmp_path / "key", KEY)))
    assert (done.exit_code, "may not sign profiles of this name" in done.stderr) == (1, True)
    assert builds == []


def test_config_check_reads_the_keys(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("config", "check").exit_code == 0
    configure(tmp_path, monkeypatch, signers=[{"name": "team", "public_key": "/no/such/key"}])
    done = run("config", "check")
    assert (done.exit_code, "the key of team: cannot read" in done.stderr) == (2, True)
    assert image.name == "base"
