"""The cache of a build's steps, and the layers in it, as the kernel mounts them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from profiles.build import namespace, step_cache
from profiles.build.layer_stack import LayerStack, can_stack
from profiles.build.step_cache import BuildCache, StepCache
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

KEYS = [f"{number:064x}" for number in (2**200, 2**210, 2**220)]


def run(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Run a program of a build."""
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    return done.stdout


@pytest.fixture
def disk() -> Iterator[Path]:
    """A private folder on a disk, where temporary files of tests may be in memory."""
    folder = Path("/var/tmp") / f"berth-steps-test-{os.getpid()}"  # noqa: S108 - mode 0700
    folder.mkdir(mode=0o700)
    yield folder
    namespace.remove_as_root(folder)


@pytest.fixture
def cache(disk: Path) -> StepCache:
    (disk / "cache").mkdir()
    return StepCache(disk / "cache", limit_bytes=1 << 20)


def keep(cache: StepCache, key: str, made: Path, *, content: bytes = b"x", step: str = "post") -> Path:
    """Keep a layer with two files, one below a folder that is closed."""
    (made / "tree/closed").mkdir(parents=True)
    (made / "tree/file").write_bytes(content)
    (made / "tree/closed/inner").write_text("inner")
    (made / "tree/closed").chmod(0)
    return cache.keep(key, made, step=step, note="noted", run=run)


def test_layer_is_found_again_with_its_note(cache: StepCache, disk: Path) -> None:
    place = keep(cache, KEYS[0], disk / "made")
    found = cache.find(KEYS[0], run)
    assert found is not None
    assert (found.folder, found.step, found.note, (place / "tree/file").read_bytes()) == (place, "post", "noted", b"x")
    assert cache.find(KEYS[1], run) is None


def test_layer_of_the_faster_build_stays(cache: StepCache, disk: Path) -> None:
    first = keep(cache, KEYS[0], disk / "first", content=b"first")
    assert keep(cache, KEYS[0], disk / "second", content=b"second") == disk / "second"
    found = cache.find(KEYS[0], run)
    assert found is not None
    assert (found.folder / "tree/file").read_bytes() == b"first"
    assert found.folder == first


def overwrite(place: Path) -> None:
    """Change a byte and set the time back, as a program does that hides it."""
    file = place / "tree/file"
    times = file.stat()
    file.write_bytes(b"y")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def pipe(place: Path) -> None:
    (place / "layer.json").unlink()
    os.mkfifo(place / "layer.json")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a byte": overwrite,
    "a file that a cleaner has removed": lambda place: (place / "tree/closed/inner").unlink(),
    "a file more": lambda place: (place / "tree/more").touch(),
    "another mode": lambda place: (place / "tree/file").chmod(0o4755),
    "another owner": lambda place: os.chown(place / "tree/file", 5, 5),
    "no tree": lambda place: namespace.remove_as_root(place / "tree"),
    "a record of another form": lambda place: (place / "layer.json").write_text('{"seal": []}'),
    "a record that is a pipe": pipe,
    "a layer of another user": lambda place: os.chown(place, 65534, 65534),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_layer_is_not_used_and_is_replaced(cache: StepCache, disk: Path, damage: str) -> None:
    place = keep(cache, KEYS[0], disk / "made")
    DAMAGES[damage](place)
    assert cache.find(KEYS[0], run) is None
    assert keep(cache, KEYS[0], disk / "again", content=b"again") == place
    found = cache.find(KEYS[0], run)
    assert found is not None
    assert (found.folder / "tree/file").read_bytes() == b"again"
    cache.trim()
    assert [path.name for path in (disk / "cache").iterdir()] == [place.name]


def test_link_in_the_place_of_a_layer_is_not_followed(cache: StepCache, disk: Path) -> None:
    place = keep(cache, KEYS[0], disk / "made")
    place.rename(disk / "elsewhere")
    place.symlink_to(disk / "elsewhere")
    assert cache.find(KEYS[0], run) is None
    cache.trim()
    assert not os.path.lexists(place)
    assert (disk / "elsewhere/tree/file").exists()


def test_old_layer_is_made_again(cache: StepCache, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(cache, KEYS[0], disk / "made")
    monkeypatch.setattr(step_cache, "MAX_CACHE_AGE_S", 0.0)
    assert cache.find(KEYS[0], run) is None
    cache.trim()
    assert not list((disk / "cache").iterdir())


def test_limit_keeps_what_was_used_last(cache: StepCache, disk: Path) -> None:
    places = [keep(cache, key, disk / key, content=bytes(400 << 10)) for key in KEYS]
    for seconds, place in ((1000, places[2]), (2000, places[0]), (3000, places[1])):
        os.utime(place, (seconds, seconds))
    assert cache.find(KEYS[2], run) is not None, "this is a use"
    cache.trim()
    assert {path.name for path in (disk / "cache").iterdir()} == {places[1].name, places[2].name}


def test_layers_are_one_tree_and_lower_ones_stay_as_they_are(disk: Path) -> None:
    stack = LayerStack(disk / "layers")
    assert stack.enter == []
    stack.tree.mkdir()
    (stack.tree / "folder").mkdir()
    (stack.tree / "folder/old").touch()
    (stack.tree / "file").write_text("1")
    first = stack.tree
    for text in ("2", "3"):
        stack.push(stack.top)
        script = f'cd "$1"; rm -r folder; mkdir folder; printf {text} >>file; ls folder; cat file'
        said = run(
            namespace.as_root(*stack.enter, "sh", "-c", script, "sh", str(stack.tree)), {"PATH": os.environ["PATH"]}
        )
        assert said == "12" if text == "2" else "123"
    assert ((first / "file").read_text(), (first / "folder/old").exists()) == ("1", True)
    assert not list(stack.tree.iterdir()), "it is mounted for programs of the build only"


def test_cache_is_opened_on_a_disk_and_shared(disk: Path) -> None:
    assert can_stack(disk / "probe", run)
    (disk / "one").mkdir()
    (disk / "two").mkdir()
    folder = disk / f"berth-steps-{os.geteuid()}"
    with (
        BuildCache().open(disk, disk / "one", run) as first,
        BuildCache(limit_bytes=1).open(disk, disk / "two", run) as second,
    ):
        assert first is not None
        assert second is not None
        keep(first, KEYS[0], disk / "made")
        assert second.find(KEYS[0], run) is not None
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / KEYS[0][:32]).exists()
    (disk / "three").mkdir()
    with (folder / "lock").open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with BuildCache(limit_bytes=1).open(disk, disk / "three", run) as third:
            assert third is not None
        assert (folder / KEYS[0][:32]).exists(), "another build uses it"
    (disk / "four").mkdir()
    with BuildCache(limit_bytes=1).open(disk, disk / "four", run):
        assert not (folder / KEYS[0][:32]).exists()


@pytest.mark.parametrize("kind", ["another user's", "open to others", "a link", "a file"])
def test_cache_that_another_user_may_have_made_is_not_used(disk: Path, kind: str) -> None:
    folder = disk / f"berth-steps-{os.geteuid()}"
    (disk / "room").mkdir()
    if kind == "a file":
        folder.touch()
    elif kind == "a link":
        (disk / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(disk / "elsewhere")
    else:
        folder.mkdir(mode=0o700)
        (folder / KEYS[0][:32] / "tree").mkdir(parents=True)
        (folder / KEYS[0][:32] / "layer.json").write_text(json.dumps({"step": "post"}))
        if kind == "open to others":
            folder.chmod(0o770)
        else:
            os.chown(folder, 65534, 65534)
    before = sorted(path.name for path in disk.rglob("*"))
    with BuildCache().open(disk, disk / "room", run) as cache:
        assert cache is None
    assert sorted(path.name for path in disk.rglob("*")) == before


def test_cache_is_not_kept_in_memory_nor_without_need(disk: Path) -> None:
    memory = Path("/dev/shm") / f"berth-steps-test-{os.getpid()}"  # noqa: S108 - mode 0700
    memory.mkdir(mode=0o700)
    try:
        for parent, wanted in (
            (memory, BuildCache()),
            (disk, BuildCache(is_used=False)),
            (disk, BuildCache(limit_bytes=0)),
        ):
            with wanted.open(parent, parent, run) as cache:
                assert cache is None
            assert not list(parent.iterdir())
    finally:
        memory.rmdir()
