from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from profiles.build import builder, namespace, network
from profiles.build.bases import base_digest, find_base
from profiles.build.build_key import build_key
from profiles.build.builder import Step, build
from profiles.build.command import CommandFailed
from profiles.build.steps import MIRROR_HINT, REMEDIES, StepRecord, Steps
from profiles.build.workspace import workspace
from profiles.errors import BuildError, ImageExistsError, ProfileError
from profiles.image.catalog import Catalog
from profiles.image.store import Store
from profiles.recipe.shipped import shipped_profiles
from profiles.recipe.spec import load_profile
from tests.container_images import Member, layer, layout_files, make_image, write_archive
from tests.deadlines import DEADLINE_S
from tests.fakes.core import publish
from tests.fakes.sif import squashfs_sif

if TYPE_CHECKING:
    from pathlib import Path


def recipe(folder: Path, more: str = "base: debian:sid\n") -> Path:
    file = folder / "profile.yaml"
    file.write_text(f"name: tiny\nversion: 1\n{more}")
    return file


def left_in(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.rglob("*")}


def test_the_shipped_profiles_are_right() -> None:
    profiles = {name: load_profile(file) for name, file in shipped_profiles().items()}
    assert set(profiles) == {"base", "triton-cpu", "triton-xpu", "triton-xpu-code"}
    assert all(profile.name == name for name, profile in profiles.items())
    assert {"htop", "jq", "python3-pip", "ocl-icd-opencl-dev"} <= set(
        profiles["triton-xpu"].apt
    )  # the documentation uses them
    assert profiles["triton-xpu"].resources_as_options() == ["--gres=gpu:intel:1"]
    assert profiles["base"].resources_as_options() == []
    newest = profiles["triton-xpu"]
    assert str(profiles["triton-xpu-code"].base) == f"profile:triton-xpu@{newest.version}"
    assert profiles["triton-xpu-code"].services[:-1] == newest.services
    assert profiles["triton-xpu-code"].resources == newest.resources


def test_a_wrong_recipe_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProfileError):
        build(recipe(tmp_path, "base: nothing\n"), store=Store(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_a_published_version_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "store/tiny/1").mkdir(parents=True)
    steps = list[Step]()
    with pytest.raises(ImageExistsError):
        build(recipe(tmp_path), store=Store(tmp_path / "store"), progress=steps.append)
    assert steps == []


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("profile:bse@1", "no profile is called bse"),
        ("sif:missing.sif", "missing.sif is not there"),
    ],
)
def test_a_base_that_is_not_there_is_told_and_the_log_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, message: str
) -> None:
    monkeypatch.setattr(builder, "check_machine", lambda *_: None)
    store = tmp_path / "store"
    with pytest.raises(BuildError) as caught:
        build(recipe(tmp_path, f"base: {base}\n"), store=Store(store), work=tmp_path)
    error = caught.value
    assert message in error.message
    assert error.message.startswith("step check failed")
    assert (error.step, error.log) == ("check", store / "tiny/1.failed.log")
    assert error.hint
    assert left_in(store) == {"tiny", "tiny/1.failed.log"}
    assert Store(store).images() == []


def test_missing_programs_are_named_with_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "PATH", str(tmp_path))
    with pytest.raises(BuildError) as caught:
        build(recipe(tmp_path), store=Store(tmp_path / "store"), work=tmp_path)
    assert "mmdebstrap" in caught.value.message
    assert "squashfs-tools" in caught.value.hint
    assert "unsquashfs" not in caught.value.message, "a Debian base is not unpacked"


def test_namespaces_that_do_not_work_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "TOOLS", {"sh": "dash"})
    monkeypatch.setattr(namespace, "as_root", lambda *_: ["sh", "-c", "echo no range >&2; exit 1"])
    with pytest.raises(BuildError, match="user namespaces do not work here: no range") as caught:
        build(recipe(tmp_path), store=Store(tmp_path / "store"), work=tmp_path)
    assert "/etc/subuid" in caught.value.hint


def test_too_little_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "TOOLS", {"sh": "dash"})
    monkeypatch.setattr(namespace, "namespace_problem", lambda: "")
    monkeypatch.setattr(builder, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(BuildError, match="MiB are free in") as caught:
        build(recipe(tmp_path), store=Store(tmp_path / "store"), work=tmp_path)
    assert "TMPDIR" in caught.value.hint


def test_a_folder_where_nothing_can_be_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "TOOLS", {"sh": "dash"})
    monkeypatch.setattr(namespace, "namespace_problem", lambda: "")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    with pytest.raises(BuildError, match="is mounted noexec"):
        build(recipe(tmp_path), store=Store(tmp_path / "store"), work=tmp_path)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(recipe(tmp_path), store=Store(tmp_path / "store"), work=tmp_path, progress=interrupt)
    assert left_in(tmp_path / "store") == {"tiny"}


def test_steps_tell_name_number_and_lines() -> None:
    told = list[Step]()
    steps = Steps(["one", "two"], BytesIO(), told.append, float("inf"))
    with steps.step("one"):
        pass
    with steps.step("two"):
        pass
    assert [(step.name, step.number, step.total) for step in told] == [("one", 1, 2)] * 2 + [("two", 2, 2)] * 2
    assert told[0] == Step("one", 1, 2)
    assert [step.record for step in told if step.record] == steps.records
    assert str(StepRecord("unpack", 2.04, 3 * 2**20)) == "2.0 s, 3.0 MiB"


def test_ordinary_users_get_a_user_namespace_and_root_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert {"--user", "--map-auto", "--map-root-user"} <= set(namespace.as_root("true"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "--user" not in namespace.as_root("true")


def test_a_workspace_is_private_and_goes_away(tmp_path: Path) -> None:
    with workspace(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "tree/deep").mkdir(parents=True)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_is_swept_and_what_another_uses_is_not(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from profiles.build.workspace import workspace\n"
        "with workspace(Path(sys.argv[1])) as folder: print(folder, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    left = done.stdout.strip()
    assert [str(path) for path in tmp_path.iterdir()] == [left]
    (tmp_path / "berth-build-young").mkdir()  # its maker was killed before it could lock it
    used = tmp_path / "berth-build-used"
    used.mkdir()
    with (used / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with workspace(tmp_path):
            assert used.exists()
    assert list(tmp_path.iterdir()) == [used]


@pytest.mark.parametrize(
    ("step", "complaint", "hint"),
    [
        ("packages", "E: Failed to fetch http://m/InRelease  Temporary failure resolving 'm'", MIRROR_HINT),
        ("debian", "E: Unable to connect to m:http:", MIRROR_HINT),
        ("packages", "E: Unable to locate package sll", REMEDIES["packages"]),
        ("pip", "error: Could not resolve host: m", REMEDIES["pip"]),
    ],
)
def test_unreached_mirror_has_a_remedy_of_its_own(step: str, complaint: str, hint: str) -> None:
    steps = Steps([step], BytesIO(), lambda _: None, 0.0)
    with pytest.raises(BuildError) as caught, steps.step(step):
        raise CommandFailed(["apt-get"], "ended with 100", complaint)
    assert complaint in caught.value.message
    assert caught.value.hint == hint


def imported_recipe(folder: Path, more: str = "") -> Path:
    write_archive(layout_files(make_image([layer(Member("x"))])), folder / "image.tar")
    return recipe(folder, f"base: oci-archive:image.tar\n{more}")


def publish_built(store: Path, file: Path) -> None:
    """Publish what a build of the recipe gives, without the work."""
    profile = load_profile(file)
    image = publish(Store(store), profile.name, profile.version, content=squashfs_sif(b"x"))
    key = build_key(profile, base_digest(find_base(profile, Catalog({}))))
    described = image.description() | {"build_key": key}
    (image.directory / "image.json").write_text(json.dumps(described))


def test_unchanged_recipe_of_a_published_version_builds_nothing(tmp_path: Path) -> None:
    file = imported_recipe(tmp_path)
    publish_built(tmp_path / "store", file)
    steps = list[Step]()
    file.write_text(f"# a comment\n{file.read_text()}")
    result = build(file, store=Store(tmp_path / "store"), progress=steps.append)
    assert (result.built, result.steps, steps) == (False, (), [])
    assert result.image.version == "1"


def test_unchanged_recipe_is_found_without_what_builds(tmp_path: Path) -> None:
    """The benchmark `build-again` allows little time, and what would break it first is an import."""
    file = imported_recipe(tmp_path)
    publish_built(tmp_path / "store", file)
    code = (
        "import sys; from pathlib import Path; from profiles.build.published import unchanged_image; "
        "from profiles.image.store import Store; "
        "image = unchanged_image(Path(sys.argv[1]), store=Store(Path(sys.argv[2]))); "
        "print(image.version, *sys.modules)"
    )
    argv = [sys.executable, "-c", code, str(file), str(tmp_path / "store")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    version, *modules = done.stdout.split()
    assert version == "1"
    assert not {"httpx", "profiles.build.builder", "profiles.devcontainer.schema"} & {*modules}


@pytest.mark.parametrize("change", ["recipe", "base", "no key"])
def test_published_version_of_another_recipe_is_refused(tmp_path: Path, change: str) -> None:
    file, store = imported_recipe(tmp_path), tmp_path / "store"
    publish_built(store, file)
    if change == "recipe":
        imported_recipe(tmp_path, "post: x\n")
    elif change == "base":
        write_archive(layout_files(make_image([layer(Member("y"))])), tmp_path / "image.tar")
    else:
        described = json.loads((store / "tiny/1/image.json").read_text())
        del described["build_key"]
        (store / "tiny/1/image.json").write_text(json.dumps(described))
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    with pytest.raises(ImageExistsError) as caught:
        build(file, store=Store(store))
    assert "raise the profile's version" in caught.value.hint
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("oci-archive:missing.tar", "there is no file"),
        ("docker-archive:missing.tar", "there is no file"),
        ("oci-layout:missing", "there is no folder"),
        ("oci-archive:profile.yaml", "ends within a header"),
        ("oci-layout:.", "no readable file oci-layout"),
    ],
)
def test_container_image_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, message: str
) -> None:
    monkeypatch.setattr(builder, "check_machine", lambda *_: None)
    with pytest.raises(BuildError, match=message) as caught:
        build(recipe(tmp_path, f"base: {base}\n"), store=Store(tmp_path / "store"), work=tmp_path)
    assert caught.value.hint or "header" in message
    assert left_in(tmp_path / "store") == {"tiny", "tiny/1.failed.log"}
