"""Overlays as a job mounts them where the kernel refuses, and the probe that foresees it.

On NFS root of a user namespace cannot override the modes of the user's own files, because the server decides. Here a
`mount` that refuses as NFS' client does leaves the same directory behind, and the namespace's root has lost the two
capabilities. What these tests cannot show is NFS itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client import answers
from broker.names import new_id
from broker.volumes import operations, probe
from broker.volumes.errors import VolumeError
from broker.volumes.storage import Storage
from tests.job_scripts import BATCH, SESSION

if TYPE_CHECKING:
    from pathlib import Path

REASON = "wrong fs type, bad option, bad superblock on overlay, missing codepage or helper program, or other error"
REFUSING_MOUNT = f"""#!/bin/bash
case " $* " in *" -t overlay "*) ;; *) exec /usr/bin/mount "$@" ;; esac
[[ $* =~ workdir=([^,\\ ]+) ]] && {{ work=${{BASH_REMATCH[1]}}; mkdir "$work/work" && chmod 0 "$work/work"; }}
echo "mount: ${{@: -1}}: {REASON}." >&2
echo "       dmesg(1) may have more information after failed mount system call." >&2
exit 32
"""
WITHOUT_OVERRIDE = "setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all"
UNSHARE = f"""#!/bin/bash
[[ $* == "--user --map-root-user --mount bash "* ]] || exec /usr/bin/unshare "$@"
exec /usr/bin/unshare --user --map-root-user --mount {WITHOUT_OVERRIDE} "${{@:4}}"
"""
MOUNT = """
source "$1"
NODE_DIR=$2/node LAYERS=$2/layers SLURMD_NODENAME=c1 MOUNTED=()
mkdir -p "$NODE_DIR/merged" "$NODE_DIR/empty"
cd "$LAYERS"
mount_overlay "$NODE_DIR/merged" "$3/tree" "$4/tree" "$NODE_DIR/empty"
cat "$NODE_DIR/merged/file"
echo changed >"$NODE_DIR/merged/file"
rm "$NODE_DIR/merged/gone"
umount "$NODE_DIR/merged"  # or fuse-overlayfs lives on, and its namespace with it
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory that comes first on the PATH, with a `mount` whose kernel has no overlays for users."""
    folder = tmp_path / "programs"
    folder.mkdir()
    install(folder / "mount", REFUSING_MOUNT)
    install(folder / "unshare", UNSHARE)
    return folder


def install(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")
    path.chmod(0o755)


def mount(room: Path, programs: Path, program: str = MOUNT) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run the script on a new top and a layer, and return its end and the top."""
    top, layer = new_id(), new_id()
    for name in (f"{top}/tree", f"{top}/work", f"{layer}/tree"):
        (room / "layers" / name).mkdir(parents=True)
    (room / "layers" / layer / "tree/file").write_text("of the layer\n")
    (room / "layers" / layer / "tree/gone").touch()
    script = ["bash", "-c", program, "bash", str(SESSION), str(room), top, layer]
    command = ["unshare", "--user", "--map-root-user", "--mount", *script]
    path = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=path)
    return done, room / "layers" / top


def test_fuse_mounts_where_the_kernel_has_left_a_locked_directory(tmp_path: Path, programs: Path) -> None:
    done, top = mount(tmp_path, programs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the kernel mounts no overlay here: {REASON}\n" in done.stdout
    assert "merged: an overlay of 3 layers, mounted by fuse\nof the layer\n" in done.stdout.replace("  ", " ")
    assert (top / "tree/file").read_text() == "changed\n"
    assert (top / "fuse").exists()


def test_words_of_the_programs_that_say_nothing_are_left_out(tmp_path: Path, programs: Path) -> None:
    done, _ = mount(tmp_path, programs)
    assert done.returncode == 0
    assert "lazytime" not in done.stdout + done.stderr
    assert "dmesg" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_batch_jobs_see_no_words_of_mounts_that_succeed(tmp_path: Path, programs: Path) -> None:
    program = (
        MOUNT.partition("mount_overlay")[0].replace("$1", str(BATCH))
        + 'mount_read_only "$NODE_DIR/merged" "$4/tree" "$NODE_DIR/empty"\n'
        + 'cat "$NODE_DIR/merged/file"; umount "$NODE_DIR/merged"'
    )
    done, _ = mount(tmp_path, programs, program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "of the layer\n", "")


def test_node_that_can_mount_nothing_is_at_fault(tmp_path: Path, programs: Path) -> None:
    install(programs / "fuse-overlayfs", "#!/bin/sh\necho fuse: device not found >&2\nexit 1\n")
    done, top = mount(tmp_path, programs)
    assert done.returncode == 70
    (line,) = re.findall(r"error: (.*)", done.stdout)
    assert line == (
        f"c1 can mount no overlay in {top.parent}. The kernel: {REASON}. fuse-overlayfs: fuse: device not found. Start "
        "the session on another node (--exclude=c1), or ask your site for fuse-overlayfs and /dev/fuse on this one"
    )
    assert sorted(each.name for each in top.parent.iterdir() if each.name.startswith(".")) == []


def test_volume_is_at_fault_where_the_node_mounts_others(tmp_path: Path, programs: Path) -> None:
    done, top = mount(tmp_path, programs, MOUNT.replace('"$4/tree"', '"missing/tree"'))
    assert done.returncode == 74
    assert f"neither the kernel nor fuse-overlayfs could mount {top}: {REASON}; cannot " in done.stdout
    assert sorted(each.name for each in top.parent.iterdir() if each.name.startswith(".")) == []


def test_probe_quotes_why_the_kernel_refuses(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (programs / "unshare").unlink()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(probe, "_can_share_blocks", lambda _: False)
    probed = probe.probe_driver(tmp_path)
    assert probed == probe.Probe("overlay", f"the kernel refuses overlayfs ({REASON}); fuse-overlayfs works, slower")
    assert [each for each in tmp_path.iterdir() if each.name.startswith(".probe")] == []


FAULTS = (
    "fuse-overlayfs makes no folder without write permission and removes no read-only file of a layer and opens no "
    "closed folder of a layer: install packages with `berth exec --root NAME -- COMMAND`"
)


@pytest.mark.parametrize(("shares_blocks", "driver"), [(False, "plain"), (True, "reflink")])
def test_home_is_no_overlay_where_fuse_has_faults(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, shares_blocks: bool, driver: str
) -> None:
    """As on NFS, where dpkg's folders of mode 0 and git's read-only files are beyond fuse-overlayfs."""
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(probe, "_can_share_blocks", lambda _: shares_blocks)
    probed = probe.probe_driver(tmp_path)
    assert (probed.driver, probed.limits) == (driver, (f"outside of the home, {FAULTS}",))
    assert probed.why.startswith(f"the kernel refuses overlayfs ({REASON})")
    assert probed.why.endswith(FAULTS)
    assert [each for each in tmp_path.iterdir() if each.name.startswith(".probe")] == []


def test_longest_answer_of_the_probe_fits_the_launchers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trial = probe._Trial("fuse", "x" * 200, "", " ".join(probe.FAULTS))
    monkeypatch.setattr(probe, "_try_overlay", lambda _: trial)
    for shares_blocks in (True, False):
        monkeypatch.setattr(probe, "_can_share_blocks", lambda _, answer=shares_blocks: answer)
        probed = probe.probe_driver(tmp_path)
        for words in (probed.why, *probed.limits):
            assert answers.parse(answers.WORDS, words, "words") == words


def test_trial_that_does_not_end_decides_nothing(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session keeps its driver for good, so a busy machine must not choose it."""
    install(programs / "mount", "#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(probe, "TRIAL_TIMEOUT_S", 1)
    with pytest.raises(VolumeError, match="did not end within 1 s: the machine is too busy"):
        probe.cached_probe(tmp_path, tmp_path / "probe.json")
    assert not (tmp_path / "probe.json").exists()
    assert [each for each in tmp_path.iterdir() if each.name.startswith(".probe")] == []


def test_session_is_told_its_limits_with_the_drivers_promises(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(probe, "_can_share_blocks", lambda _: False)
    storage, session = Storage(tmp_path), new_id()
    storage.make()
    storage.session(session).mkdir()
    for _ in range(2):  # anew, and as it was noted
        volumes = operations.create_volumes(storage, session)
        assert volumes["driver"] == "plain"
        assert volumes["promises"] == [*storage.driver("plain").promises, f"outside of the home, {FAULTS}"]
        assert probe.cached_probe(storage.layers.root, storage.probe).limits == (f"outside of the home, {FAULTS}",)


def test_probe_meets_what_the_kernels_try_leaves_for_fuse(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job has one working directory for both tries. A probe with two would promise what no job can do."""
    install(programs / "mount", REFUSING_MOUNT.replace('mkdir "$work/work" && chmod 0 "$work/work"', '>"$work/work"'))
    done, _ = mount(tmp_path, programs)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(probe, "_can_share_blocks", lambda _: False)
    assert done.returncode == 70, done.stdout + done.stderr
    probed = probe.probe_driver(tmp_path)
    assert probed.driver == "plain"
    assert REASON in probed.why
    assert "fuse-overlayfs (cannot open workdir: " in probed.why


def test_result_of_another_sandbox_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a unit's restart with other settings: it mounts in another namespace, under other rules."""
    note, results = tmp_path / "probe.json", iter(["plain", "reflink"])
    monkeypatch.setattr(probe, "probe_driver", lambda _: probe.Probe(next(results), "tried"))
    assert [probe.cached_probe(tmp_path, note).driver for _ in range(2)] == ["plain", "plain"]
    script = "import sys; from pathlib import Path; from broker.volumes import probe as p; " + (
        "p.probe_driver = lambda _: p.Probe('overlay', 'tried'); print(p.cached_probe(*map(Path, sys.argv[1:])).driver)"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(note)]
    ours = note.read_bytes()
    for sandbox in (["unshare", "--user", "--map-root-user", "--mount"], ["setpriv", "--no-new-privs"]):
        note.write_bytes(ours)
        done = subprocess.run([*sandbox, *command], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == "overlay\n"
